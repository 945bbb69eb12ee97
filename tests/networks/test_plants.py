"""Plants: the classic contract and the modern one, as inputs, as a layer and as both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine.preconditioners import squared_gradients
from recurrent_cases import NumpyTanh

import dense

B, T = 4, 5
STARTS = np.random.RandomState(0).uniform(-0.5, 0.5, (B, 2))
AIM = np.array([1.0, 0.0])


def aims(batch=B):
    targets = np.full((batch, T, 2), np.nan)
    targets[:, -1] = AIM
    return targets


def moved(state, push):
    """The dynamics of both plants: position and velocity, pushed by the second column."""
    position, velocity = state[:, 0], state[:, 1]
    return np.stack([position + 0.3 * velocity, 0.9 * velocity + np.tanh(push[:, 1]) * (1 + position)], axis=1)


class Classic(hf.nl.Plant):
    """Inputs only: moves by the network's output, in numpy."""

    def __init__(self, shape=(B, T, 2)):
        super().__init__()
        self.shape = list(shape)
        self.generated = []

    def reset(self, init=None):
        self.state, self.generated = STARTS[: self.shape[0]].copy(), []

    def __call__(self, x):
        self.state = moved(self.state, x)
        self.generated.append(self.state)
        return self.state

    def get_vecs(self):
        return np.stack(self.generated, axis=1), aims(self.shape[0])


class Both(hf.nl.Plant):
    """Layer and inputs: the layer moves, the call looks. Counts calls as 2016 programs did."""

    def __init__(self):
        super().__init__()
        self.shape = [B, T, 2]
        self.reset()

    def reset(self, init=None):
        self.state, self.generated = STARTS.copy(), []
        self.calls = self.d_calls = 0

    def activation(self, x):
        self.calls += 1
        self.before, self.push = self.state, x
        self.state = moved(self.state, x)
        return self.state

    def d_activation(self, x, a):
        self.d_calls += 1
        assert self.calls == self.d_calls
        J = np.zeros((len(x), 2, 2, 3))
        J[:, 1, 1, 0] = (1 - np.tanh(x[:, 1]) ** 2) * (1 + self.before[:, 0])
        J[:, 0, 0, 1], J[:, 0, 1, 1], J[:, 1, 1, 1] = 1, 0.3, 0.9
        J[:, 1, 0, 1] = np.tanh(x[:, 1])
        J[..., 2] = np.eye(2)
        return J

    def __call__(self, x):
        self.generated.append(self.state.copy())
        return self.state

    def get_vecs(self):
        return np.stack(self.generated, axis=1), aims()


class Modern(hf.nl.Plant):
    """The same in jax.numpy, as inputs, as a layer or as both."""

    def __init__(self, closed_loop=False, targets=None, shape=(B, T, 2)):
        super().__init__(closed_loop=closed_loop)
        self.shape, self.targets = list(shape), aims() if targets is None else targets
        self.gain = np.asarray(1.0)

    def initial_state(self, batch):
        return STARTS[:batch]

    def step(self, state, x):
        position, velocity = state[:, 0], state[:, 1]
        push = self.gain * jnp.tanh(x[:, 1]) * (1 + position)
        new = jnp.stack([position + 0.3 * velocity, 0.9 * velocity + push], axis=1)
        return new, new


def network(output="Linear", seed=0, **kwargs):
    arguments = {"dtype": np.float64, "rec_layers": [1], **kwargs}
    return hf.RNNet(
        [2, 3, 2],
        layers=["Linear", arguments.pop("hidden", "Tanh"), output],
        rng=seed,
        W_init_params={"init_type": "gaussian", "coeff": 0.7},
        W_rec_params={"init_type": "gaussian", "coeff": 0.5},
        **arguments,
    )


def reference(W, inputs=None, *, as_layer):
    """Inputs and activations from a loop in numpy; given inputs stand for the plant."""
    system = {"state": STARTS.copy()}

    def feed(t, output):
        if inputs is not None:
            return inputs[:, t]
        if not as_layer:
            system["state"] = moved(system["state"], np.zeros((B, 2)) if output is None else output)
        return STARTS if as_layer and output is None else (output if as_layer else system["state"])

    def layer(state, z):
        new = moved(STARTS if state is None else state, z)
        return new, new

    last = layer if as_layer else dense.without_state("Linear")
    steps = [dense.without_state("Linear"), dense.without_state("Tanh"), last]
    return dense.run_over_time([2, 3, 2], {0: [1], 1: [2]}, [1], steps, W, feed, count=T)


def cost(a):
    return 0.5 * ((a[-1][:, -1] - AIM) ** 2).sum(axis=1).mean()


PLANTS = {
    "classic inputs": (Classic, False),
    "classic both": (Both, True),
    "modern inputs": (Modern, False),
    "modern both": (Modern, True),
}


@pytest.mark.parametrize(("make", "as_layer"), PLANTS.values(), ids=PLANTS)
def test_forward_is_the_loop(make, as_layer):
    plant = make()
    net = network(plant if as_layer else "Linear")
    for found, expected in zip(net.forward(plant), reference(net.W, as_layer=as_layer)[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    activations, derivatives = net.forward(plant, deriv=True)
    np.testing.assert_allclose(activations[-1], net.forward(plant)[-1], rtol=1e-9)
    np.testing.assert_allclose(derivatives[1], 1 - activations[1] ** 2, rtol=1e-9)


@pytest.mark.parametrize(("make", "as_layer"), PLANTS.values(), ids=PLANTS)
def test_generated_inputs_are_held_fixed(make, as_layer):
    """Value, gradient and G of an update are those of a network on given inputs."""
    plant = make()
    net = network(plant if as_layer else "Linear")
    net.cache_minibatch(plant, None)
    inputs = reference(net.W, as_layer=as_layer)[1][0]
    np.testing.assert_allclose(net.inputs, inputs, rtol=1e-9, atol=1e-12)
    run = lambda w: reference(w, inputs, as_layer=as_layer)[1]
    assert net.error() == pytest.approx(cost(run(net.W)))
    shifted = net.W + 0.1
    assert net.error(shifted) == pytest.approx(cost(run(shifted)))
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(lambda w: cost(run(w)), net.W), rtol=1e-5, atol=1e-9)
    J = dense.jacobian(lambda w: run(w)[-1][:, -1], net.W)
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    np.testing.assert_allclose(G, np.einsum("bip,biq->pq", J, J) / B, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("as_layer", [False, True])
def test_the_closed_loop_is_differentiated_through_the_plant(as_layer):
    plant = Modern(closed_loop=True)
    net = network(plant if as_layer else "Linear")
    net.cache_minibatch(plant, None)
    run = lambda w: reference(w, as_layer=as_layer)[1]
    shifted = net.W + 0.1
    assert net.error(shifted) == pytest.approx(cost(run(shifted)))
    gradient = dense.jacobian(lambda w: cost(run(w)), net.W)
    np.testing.assert_allclose(net.calc_grad(), gradient, rtol=1e-5, atol=1e-9)
    J = dense.jacobian(lambda w: run(w)[-1][:, -1], net.W)
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    np.testing.assert_allclose(G, np.einsum("bip,biq->pq", J, J) / B, rtol=1e-5, atol=1e-8)

    held = Modern()
    fixed = network(held if as_layer else "Linear")
    fixed.cache_minibatch(held, None)
    assert np.abs(fixed.calc_grad() - gradient).max() > 1e-2 * np.abs(gradient).max()


def test_a_loss_on_the_plants_own_path():
    """A plant that is no layer is seen by losses as the input layer; only the closed loop has a derivative there."""
    on_path = [hf.loss_funcs.SparseL2(1.0, layers=[0], target=[1.0, 0.0])]
    net = network(loss_type=on_path)
    plant = Modern(closed_loop=True)
    net.cache_minibatch(plant, None)
    path_cost = lambda w: 0.5 * ((reference(w, as_layer=False)[1][0] - AIM) ** 2).sum(axis=(1, 2)).mean()
    assert net.error() == pytest.approx(path_cost(net.W))
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(path_cost, net.W), rtol=1e-5, atol=1e-9)


@pytest.mark.long
def test_the_closed_loop_reaches_a_lower_cost_in_the_same_number_of_updates():
    """The body of the plant demo, whose input gain depends on where it is."""
    from hessianfree.demos.plant import CompiledBody

    costs = {}
    for closed_loop in (False, True):
        plant = CompiledBody(np.random.RandomState(0).uniform(-0.5, 0.5, (8, 2)))
        plant.targets, plant.closed_loop = plant.targets[:8], closed_loop
        net = network(plant, dtype=np.float32)
        result = net.run_epochs(
            plant, None, hf.opt.HessianFree(CG_iter=20, init_damping=10), max_epochs=40, target_err=0, print_period=None
        )
        costs[closed_loop] = min(result.test_errors)
    assert costs[True] < 0.1 * costs[False], costs


@pytest.mark.few(4)
@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(CG_iter=10), hf.opt.SGD(l_rate=0.05)])
@pytest.mark.parametrize(("make", "as_layer"), PLANTS.values(), ids=PLANTS)
def test_training_with_a_plant(make, as_layer, optimizer):
    plant = make()
    net = network(plant if as_layer else "Linear")
    result = net.run_epochs(plant, None, optimizer, max_epochs=8, print_period=None)
    assert net.best_error < result.test_errors[0]
    assert net.best_error == pytest.approx(cost(reference(net.best_W, as_layer=as_layer)[1]), rel=1e-6)
    assert plant.shape == [B, T, 2]


def test_evaluation_with_another_loss_and_another_plant():
    plant, other = Classic(), Classic()
    net = network()
    loss = hf.loss_funcs.SquaredError()
    result = net.run_epochs(
        plant, None, hf.opt.HessianFree(CG_iter=5), max_epochs=2, test=(other, None), test_err=loss, print_period=None
    )
    assert result.test_errors[-1] == pytest.approx(cost(reference(net.W, as_layer=False)[1]), rel=1e-6)
    assert net.error(net.W, other, None) == pytest.approx(result.test_errors[-1])


@pytest.mark.parametrize("closed_loop", [False, True])
def test_modern_plants_with_layers_that_run_in_numpy(closed_loop):
    plant = Modern(closed_loop)
    net = network(hidden=NumpyTanh())
    if closed_loop:
        with pytest.raises(TypeError, match="closed_loop=True needs layers"):
            net.run_epochs(plant, None, hf.opt.HessianFree())
        return
    np.testing.assert_allclose(net.forward(plant)[-1], reference(net.W, as_layer=False)[1][-1], rtol=1e-9)
    both = network(plant, hidden=NumpyTanh())
    np.testing.assert_allclose(both.forward(plant)[-1], reference(both.W, as_layer=True)[1][-1], rtol=1e-9)


def test_minibatches_smaller_than_the_plant():
    plant = Classic()
    seen = []
    plant.reset = lambda init=None: (seen.append(plant.shape[0]), Classic.reset(plant, init))
    net = network()
    result = net.run_epochs(
        plant, None, hf.opt.HessianFree(CG_iter=3), max_epochs=1, minibatch_size=3, print_period=None
    )
    assert len(result.epochs[0].updates) == 2
    assert set(seen[:2]) == {3}
    assert plant.shape == [B, T, 2]


class BothHonouring(Both):
    """Layer and inputs, of whatever batch its shape asks for."""

    def reset(self, init=None):
        super().reset(init)
        self.state = STARTS[: self.shape[0]].copy()

    def get_vecs(self):
        return np.stack(self.generated, axis=1), aims(self.shape[0])


def test_minibatches_of_a_plant_that_is_a_layer():
    plant = BothHonouring()
    net = network(plant)
    result = net.run_epochs(
        plant, None, hf.opt.HessianFree(CG_iter=3), max_epochs=2, minibatch_size=2, print_period=None
    )
    assert [len(epoch.updates) for epoch in result.epochs] == [2, 2]
    assert result.test_errors[-1] == pytest.approx(cost(reference(net.W, as_layer=True)[1]), rel=1e-6)
    assert plant.shape == [B, T, 2]


@pytest.mark.parametrize("closed_loop", [False, True])
def test_squared_gradients_with_a_plant_as_layer(closed_loop):
    plant = Modern(closed_loop)
    net = network(plant)
    net.cache_minibatch(plant, None)
    inputs = None if closed_loop else net.inputs
    with net.computing():
        squares = jax.jit(squared_gradients)(net.problem(), net.params(), net.batch())
        found = net.flat(jax.device_get(squares))
    costs = lambda w: 0.5 * ((reference(w, inputs, as_layer=True)[1][-1][:, -1] - AIM) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, (dense.jacobian(costs, net.W) ** 2).mean(axis=0), rtol=1e-5, atol=1e-10)


def test_truncation_with_a_plant_as_layer():
    plant = Modern()
    net = network(plant, truncation=(T, T))
    net.cache_minibatch(plant, None)
    full = network(plant)
    full.cache_minibatch(plant, None)
    np.testing.assert_allclose(net.calc_grad(), full.calc_grad(), rtol=1e-9, atol=1e-12)


def test_a_plants_state_may_broadcast_to_what_step_returns():
    class Narrow(Modern):
        def initial_state(self, batch):
            return {"state": jnp.full((batch, 1), 0.1)}

        def step(self, state, x):
            new, out = super().step(jnp.broadcast_to(state["state"], (x.shape[0], 2)), x)
            return {"state": new}, out

    plant = Narrow(closed_loop=True)
    assert network().forward(plant)[0].shape == (B, T, 2)


def test_targets_that_change_do_not_reach_a_cached_batch():
    plant = Modern(closed_loop=True)
    net = network(plant)
    net.cache_minibatch(plant, None)
    before = net.error()
    plant.targets[:] = 9
    assert net.error() == before


def test_a_plant_that_works_in_place_on_what_it_sees():
    class InPlace(Classic):
        def __call__(self, x):
            seen = super().__call__(x)
            x *= 0
            return seen

    net = network()
    np.testing.assert_allclose(net.forward(InPlace())[-1], reference(net.W, as_layer=False)[1][-1], rtol=1e-9)


def test_an_interrupt_leaves_the_plant_as_it_was():
    class Interrupting(BothHonouring):
        def __call__(self, x):
            if self.shape[0] == 2:
                raise KeyboardInterrupt
            return super().__call__(x)

    plant = Interrupting()
    net = network(plant)
    net.run_epochs(plant, None, hf.opt.HessianFree(CG_iter=3), minibatch_size=2, print_period=None)
    assert plant.shape == [B, T, 2]
    assert np.isfinite(net.W).all()


def test_a_plant_that_does_not_honour_a_smaller_batch():
    class Stubborn(Classic):
        def __call__(self, x):
            return STARTS

    plant = Stubborn()
    with pytest.raises(ValueError, match=r"shape\[0\]"):
        network().run_epochs(plant, None, hf.opt.HessianFree(), minibatch_size=2)
    assert plant.shape == [B, T, 2]


def test_numbers_of_a_plant_may_change_between_updates():
    plant = Modern(closed_loop=True)
    net = network(plant)
    net.cache_minibatch(plant, None)
    before = net.calc_grad()
    plant.gain = np.asarray(2.0)
    net.cache_minibatch(plant, None)
    assert not np.allclose(net.calc_grad(), before)


class NaNAtThree(Classic):
    def __call__(self, x):
        super().__call__(x)
        if len(self.generated) == 4:
            self.state = self.state * np.nan
        return self.state


class ModernNaN(Modern):
    def step(self, state, x):
        new, out = super().step(state, x)
        return new, jnp.where(abs(out) > 0.4, jnp.nan, out)


def test_a_plant_that_generates_nan_names_the_timestep():
    net = network()
    before = net.W.copy()
    with pytest.raises(OverflowError, match=r"NaNAtThree.*timestep 3"):
        net.run_epochs(NaNAtThree(), None, hf.opt.HessianFree())
    expected = next(t for t in range(T) if (abs(reference(net.W, as_layer=False)[1][0][:, t]) > 0.4).any())
    for closed_loop in (False, True):
        with pytest.raises(OverflowError, match=f"ModernNaN.*timestep {expected}"):
            net.run_epochs(ModernNaN(closed_loop), None, hf.opt.HessianFree())
    np.testing.assert_array_equal(net.W, before)


class WrongInput(Classic):
    def __call__(self, x):
        return super().__call__(x)[:, :1]


class NoVecs(hf.nl.Plant):
    shape = (B, T, 2)

    def __call__(self, x):
        return np.zeros((B, 2))


class NoTargets(hf.nl.Plant):
    shape = (B, T, 2)

    def initial_state(self, batch):
        return jnp.zeros((batch, 2))

    def step(self, state, x):
        return state, state


class NumpyStep(Modern):
    def step(self, state, x):
        return np.asarray(state), np.tanh(np.asarray(x))


class Noisy(Modern):
    def step(self, state, x):
        return super().step(state + np.random.RandomState().randn(B, 2), x)


class OtherInputs(Classic):
    def get_vecs(self):
        return super().get_vecs()[0] + 1, aims()


class NoPair(Classic):
    def get_vecs(self):
        return None


def closed_classic():
    plant = Classic()
    plant.closed_loop = True
    return plant


BAD_PLANTS = [
    (lambda: Classic((B, T, 3)), {}, ValueError, "width 3.*2 units"),
    (lambda: Classic((B, 0, 2)), {}, ValueError, "timesteps is 0"),
    (lambda: Classic((0, T, 2)), {}, ValueError, "examples is 0"),
    (lambda: Classic((B, T)), {}, ValueError, r"\[examples, timesteps, width"),
    (WrongInput, {}, ValueError, r"shape \(4, 1\) at timestep 0; expected \(4, 2\)"),
    (NoVecs, {}, TypeError, "get_vecs"),
    (closed_classic, {}, TypeError, "closed_loop=True needs initial_state and step"),
    (NoTargets, {}, TypeError, "targets"),
    (lambda: Modern(targets=np.zeros((B, T, 1))), {}, ValueError, r"\(4, 5, 1\); \(4, 5, 2\) is expected"),
    (lambda: NumpyStep(True), {}, TypeError, "jax.numpy"),
    (lambda: Modern(True), {"truncation": (2, 2)}, ValueError, "truncation"),
    (lambda: Noisy(True), {}, TypeError, "something else each time"),
    (OtherInputs, {}, ValueError, "get_vecs returned inputs that differ from those its calls gave"),
    (NoPair, {}, ValueError, "get_vecs returned NoneType"),
    (lambda: Modern, {}, TypeError, "write its parentheses"),
]


@pytest.mark.parametrize(("make", "arguments", "error", "message"), BAD_PLANTS)
def test_plants_that_cannot_work(make, arguments, error, message):
    with pytest.raises(error, match=message):
        network(**arguments).run_epochs(make(), None, hf.opt.HessianFree(), print_period=None)


def test_targets_beside_a_plant_and_plants_without_time():
    with pytest.raises(ValueError, match="brings its own targets"):
        network().run_epochs(Classic(), aims(), hf.opt.HessianFree())
    with pytest.raises(TypeError, match="Use RNNet"):
        hf.FFNet([2, 3, 2]).run_epochs(Classic(), None, hf.opt.HessianFree())
    with pytest.raises(ValueError, match="its own state"):
        network().forward(Classic(), init_activations=[None, np.zeros((B, 3)), None])


@pytest.mark.parametrize(("make", "as_layer"), PLANTS.values(), ids=PLANTS)
def test_debug_with_a_plant(make, as_layer):
    plant = make()
    net = network(plant if as_layer else "Linear", debug=True)
    net.run_epochs(plant, None, hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)


def test_debug_in_a_closed_loop():
    plant = Modern(closed_loop=True)
    net = network(plant, debug=True)
    net.run_epochs(plant, None, hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)
