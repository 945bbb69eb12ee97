"""A short last minibatch: the update on it is the one on its own examples, whatever looks at the batch."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

rng = np.random.RandomState(1)
X, T = rng.randn(5, 3), rng.randn(5, 2)
SIZE = 3


class MeanOfBatch(hf.loss_funcs.LossFunction):
    """In numpy, as in an old script: divided by the size of the batch."""

    def loss(self, activities, targets):
        o = np.asarray(activities[-1])
        return [None, None, 0.5 * (o - np.asarray(targets)) ** 2 / len(o)]

    def d_loss(self, activities, targets):
        o = np.asarray(activities[-1])
        return [None, None, (o - np.asarray(targets)) / len(o)]

    def d2_loss(self, activities, targets):
        o = np.asarray(activities[-1])
        return [None, None, np.ones_like(o) / len(o)]


class Standardised(hf.loss_funcs.LossFunction):
    """In JAX: outputs and targets are compared after each is standardised over the batch."""

    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return 0.5 * ((o - o.mean(axis=0)) / (0.1 + o.std(axis=0)) - t) ** 2


class Whitening(hf.nl.Nonlinearity):
    """Subtracts the mean over the batch."""

    def activation(self, x):
        return jnp.tanh(x - x.mean(axis=0))


class NumpyCentring(hf.nl.Nonlinearity):
    """The same in numpy, with the derivative of a constant mean."""

    def activation(self, x):
        return np.tanh(np.asarray(x) - np.asarray(x).mean(axis=0))

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


class Patched(hf.nl.Tanh):
    """A built-in class with a method of the user's on top."""

    def activation(self, x):
        return jnp.tanh(x / len(x))

    def d_activation(self, x, a):
        return (1 - a**2) / len(x)


CASES = {
    "numpy loss by batch size": {"loss_type": MeanOfBatch()},
    "jax loss of statistics": {"loss_type": Standardised()},
    "that loss in a set": {"loss_type": [hf.loss_funcs.SquaredError(), Standardised()]},
    "whitening layer": {"layers": ["Linear", Whitening(), "Linear"]},
    "numpy layer": {"layers": ["Linear", NumpyCentring(), "Linear"]},
    "subclass of a built-in": {"layers": ["Linear", Patched(), "Linear"]},
    "all built in": {},
}


@pytest.mark.few(7)
@pytest.mark.parametrize("make", [lambda: hf.opt.HessianFree(CG_iter=5), lambda: hf.opt.SGD(0.1)])
@pytest.mark.parametrize("name", CASES)
def test_the_update_on_a_remainder_is_the_one_on_its_examples(name, make):
    order = np.random.RandomState(7)
    net = hf.FFNet([3, 4, 2], rng=order, dtype=np.float64, **CASES[name])
    alone = hf.FFNet([3, 4, 2], rng=0, dtype=np.float64, load_weights=net.W.copy(), **CASES[name])
    state = order.get_state()
    chosen = order.permutation(5)
    order.set_state(state)
    ours, theirs = make(), make()
    net.run_epochs(X, T, ours, minibatch_size=SIZE, max_epochs=1, print_period=None)
    alone.optimizer = theirs
    theirs.full_batches = False
    for part in (chosen[:SIZE], chosen[SIZE:]):
        alone.cache_minibatch(X, T, part)
        alone.W[:] += theirs.compute_update()
    np.testing.assert_allclose(net.W, alone.W, rtol=1e-8, atol=1e-10)
    assert ours.record.value == pytest.approx(theirs.record.value, rel=1e-10)


def test_a_numpy_loss_by_batch_size_passes_the_checks_of_debug():
    net = hf.FFNet([3, 4, 2], rng=0, debug=True, loss_type=MeanOfBatch())
    result = net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=5), minibatch_size=SIZE, max_epochs=2, print_period=None)
    assert len(result.epochs) == 2


def test_recurrent_networks_of_built_in_parts_are_padded_and_others_not():
    x, t = rng.randn(5, 4, 3), rng.randn(5, 4, 2)
    sizes = []

    class Watches(hf.opt.SGD):
        def compute_update(self, printing=False):
            sizes.append((len(self.net.batch().weights), len(self.net.inputs)))
            return super().compute_update(printing)

    leaky = hf.nl.Continuous(hf.nl.Tanh(), tau=2.0)
    for layer in (leaky, hf.nl.Continuous(Whitening(), tau=2.0)):
        net = hf.RNNet([3, 4, 2], layers=["Linear", layer, "Linear"], rng=0)
        net.run_epochs(x, t, Watches(0.1), minibatch_size=SIZE, max_epochs=1, print_period=None)
    assert sizes == [(3, 3), (3, 2), (3, 3), (2, 2)]
