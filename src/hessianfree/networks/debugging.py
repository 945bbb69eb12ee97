"""Checks of gradient and curvature against finite differences, for networks with `debug=True`.

The references use nothing but values. With l_b the loss of example b, q the quantities that a loss sees (the logits
where it matches the output layer, activations elsewhere), J = dq/dW and H = d2l/dq2,

    g = sum_b w_b dl_b/dW,    G = sum_b w_b J_b' H_b J_b,    w_b the share of example b in the mean.

dl/dW and J come from values. H comes from first derivatives of the loss, which the gradient has confirmed before.
Each difference is extrapolated from several steps (Ridders 1982) and knows its own error: what the extrapolation still
changes, and the rounding of the values over the step. A derivative is wrong only if it differs by more than that.

The cost is 7 to 10 evaluations of the network per weight, 29 at most, and a dense matrix: check small networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.linearization import curvature_product, value_and_gradient
from hessianfree.networks.arguments import is_built_in
from hessianfree.networks.core import NetworkCore
from hessianfree.networks.model.terms import AtLogits, Outputs, matched
from hessianfree.networks.model.wiring import Activity, NetworkTargets
from hessianfree.networks.numpy import probing as host
from hessianfree.networks.numpy.stepping import HostNetwork, stacked
from hessianfree.networks.parts import loss_funcs
from hessianfree.networks.parts.interfaces import defines
from hessianfree.networks.parts.loss_funcs import LossFunction, StructuralDamping
from hessianfree.networks.parts.nonlinearities import Softmax
from hessianfree.networks.rollouts import looped_activity

Floats = NDArray[np.floating[Any]]

#: Allowed beside SAFETY times the estimated error: this share of the absolute sum over examples.
TOLERANCE, SAFETY = 1e-6, 4
#: Steps are FIRST / RATIO^k, in units of a displacement over which the function changes notably.
FIRST, RATIO, LEVELS = 2.0**-4, 4.0, 14
#: A value is taken to be uncertain by the rounding of numbers of its own size, and of numbers around 1.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
#: Relative error at which no smaller step is tried.
ENOUGH = 1e-6


class DerivativeError(ArithmeticError):
    """A derivative that the solver uses disagrees with finite differences."""


class _Estimate(NamedTuple):
    """A reference, its estimated error, and its size: the same sum over absolute values."""

    value: Floats
    error: Floats
    size: Floats


class _Curvature(NamedTuple):
    """Second derivatives (B, n, n) of a loss at z or a (`kind`) of a layer, and their error."""

    kind: str
    layer: int
    value: Floats
    error: Floats


def check_derivatives(net: NetworkCore) -> None:
    """Compare gradient and curvature of a network in float64, on its cached minibatch, with finite differences.

    Raises DerivativeError if one disagrees by more than the error of the differences. The message names the connection.
    """
    weights = net.W.copy()
    with net.computing(), np.errstate(all="ignore"):  # a step may leave the range of a layer or loss
        try:
            _check_here(net)
        except DerivativeError:
            # On a kink (a ReLU whose input is zero) there is no derivative. A real mistake is still there nearby.
            net.W = weights + 1e-3 * _scales(net) * np.random.RandomState(0).randn(weights.size)
            _check_here(net)
        finally:
            net.W = weights


def _check_here(net: NetworkCore) -> None:
    scales = _scales(net)
    truncation = net.assemble().truncation
    windows = [slice(None)] if truncation is None else truncation.windows(net.examples.x.shape[1])
    references = [_Window(net, steps, scales).references() for steps in windows]
    gradient, curvature = (_total(estimates) for estimates in zip(*references, strict=True))
    objective, batch = net.problem().localize(net.params(), net.batch())
    used = value_and_gradient(objective, net.params(), batch)[1]
    _compare(net, "gradient", net.flat(jax.device_get(used)), gradient)
    columns = [curvature_product(objective, net.params(), batch, net.params(unit)) for unit in np.eye(net.W.size)]
    _compare(net, "Gauss-Newton matrix", np.stack([net.flat(jax.device_get(c)) for c in columns]), curvature)


def _total(estimates: Sequence[_Estimate]) -> _Estimate:
    return _Estimate(*(np.sum(column, axis=0) for column in zip(*estimates, strict=True)))


def _run(net: NetworkCore, network: HostNetwork, W: Floats, steps: slice) -> Activity:
    """The network with other weights inside a window; before it the network keeps its own."""
    x = net.examples.x
    if net.recurrent is None:
        return network.run(net.params(W), x)
    if (plant := net.looped_plant) is not None:
        return looped_activity(net, plant, net.params(W), net.batch().inputs.plant)
    here, there, first = net.params(W), net.params(), steps.start or 0
    run = network.steps(lambda t: here if t >= first else there, lambda t, output, states: x[:, t], x.shape[1], x.dtype)
    return stacked(run[steps])


def _scales(net: NetworkCore) -> Floats:
    """Per weight the displacement that changes some input or activation of the network by about 1, (P,)."""
    network, W = net.assemble().network, net.W

    def seen(weights: Floats) -> Floats:
        return np.concatenate([part.ravel() for part in jax.tree.leaves(_run(net, network, weights, slice(None)))])

    now, steps = seen(W), 2.0**-20 * np.where(W == 0, 1, abs(W))
    changes = np.array([np.nanmax(abs(seen(W + step) - now)) for step in np.diag(steps)])
    usable = (changes > 0) & np.isfinite(changes)
    return np.where(usable, steps / np.where(usable, changes, 1), 1)


class _Window:
    """The references of one window of timesteps, at the network's weights."""

    def __init__(self, net: NetworkCore, steps: slice, scales: Floats) -> None:
        self.net, self.steps, self.scales = net, steps, scales
        self.network = net.assemble().network
        self.losses = loss_funcs.flatten(net.loss)
        targets = net.examples.t
        self.targets = targets if net.recurrent is None else targets[:, steps]
        self.weights = np.asarray(net.batch().weights)[: len(targets)]
        self.here = self._activity(net.W)
        self._check_repeatable()

    def references(self) -> tuple[_Estimate, _Estimate]:
        """Gradient (P,) and Gauss-Newton matrix (P, P)."""
        B, P = len(self.targets), self.net.W.size
        terms = [term for loss in self.losses for term in self._curvatures(loss)]
        J, E = self._jacobian([(term.kind, term.layer) for term in terms])
        counts = self.weights > 0
        w = self.weights[counts] / self.weights.sum()
        gradient = _Estimate(*(w @ part[:B][counts] for part in (J, E, abs(J))))
        matrix, start = _Estimate(*(np.zeros((P, P)) for _ in range(3))), B
        for term in terms:
            end = start + B * term.value.shape[-1]
            j, e = (part[start:end].reshape(B, -1, P)[counts] for part in (J, E))
            H, H_error = (w[:, None, None] * part[counts] for part in (term.value, term.error))
            size = _product(abs(j), abs(H))
            error = _product(abs(j) + e, abs(H) + H_error) - size
            matrix, start = _total([matrix, _Estimate(_product(j, H), error, size)]), end
        return gradient, matrix

    def _activity(self, W: Floats) -> Activity:
        return _run(self.net, self.network, W, self.steps)

    def _check_repeatable(self) -> None:
        for layer, (a, b) in enumerate(zip(self.here.a, self._activity(self.net.W).a, strict=True)):
            if not np.allclose(a, b, rtol=1e-9, atol=1e-9 * float(np.nanmax(abs(a))), equal_nan=True):
                raise DerivativeError(
                    f"The gradient disagrees with finite differences, because layer {layer} "
                    f"({type(self.net.layers[layer]).__name__}) returns different activations for equal inputs. Make "
                    "it deterministic: draw its random numbers once per update."
                )

    def _values(self, activity: Activity) -> Floats:
        """The loss per example, (B,)."""
        return np.sum([self._loss_values(loss, activity) for loss in self.losses], axis=0)

    def _loss_values(self, loss: LossFunction, activity: Activity) -> Floats:
        output = self.net.layers[-1]
        if (term := matched(loss, output)) is not None:
            return np.asarray(_values_at_logits(term, activity.z[-1], self.targets))
        return host.loss_values(loss, output, activity, self.targets)

    def _jacobian(self, places: list[tuple[str, int]]) -> tuple[Floats, Floats]:
        """Derivatives by all weights of the loss per example and of the quantities at some places, and their errors."""

        def seen(activity: Activity) -> Floats:
            quantities = [getattr(activity, kind)[layer].ravel() for kind, layer in places]
            return np.concatenate([self._values(activity), *quantities])

        W, now, noise = self.net.W, seen(self.here), np.full((), ROUNDING)
        for jitter in _jitters():
            moved = self._activity(jitter(W))
            # Softmax clips its values at 1e-10, where its derivative is that of the unclipped ones.
            clipped = [isinstance(getattr(layer, "base", layer), Softmax) for layer in self.net.layers]
            a = [jitter(a, 1e-10 if clips else 0.0) for a, clips in zip(moved.a, clipped, strict=True)]
            moved = Activity([jitter(z) for z in moved.z], a)
            noise = np.fmax(noise, ROUNDING + abs(seen(moved) - now))
        moves = [partial(lambda u, h: seen(self._activity(W + h * u)), unit) for unit in np.diag(self.scales)]
        J, E = zip(*(derivative(move, np.ones(()), noise) for move in moves), strict=True)
        return np.stack(J, axis=-1) / self.scales, np.stack(E, axis=-1) / self.scales

    def _curvatures(self, loss: LossFunction) -> list[_Curvature]:
        """The second derivatives of a loss wherever there are any."""
        last = len(self.net.layers) - 1
        if isinstance(loss, StructuralDamping):  # a curvature without a loss: there is nothing to compare it with
            diagonals = [None if d is None else _by_example(d) for d in loss.d2_loss(self.here.a, self.targets)]
            found = [(i, d[:, :, None] * np.eye(d.shape[-1])) for i, d in enumerate(diagonals) if d is not None]
            return [_Curvature("a", i, H, np.zeros_like(H)) for i, H in found]
        places = [("a", i) for i in range(last + 1)] if matched(loss, self.net.layers[-1]) is None else [("z", last)]
        terms = [_Curvature(*place, *self._curvature(loss, *place)) for place in places]
        return [term for term in terms if term.value.any() or term.error.any()]

    def _curvature(self, loss: LossFunction, kind: str, layer: int) -> tuple[Floats, Floats]:
        """Second derivatives (B, n, n), n counting units and timesteps, column by column, and their errors."""
        values = getattr(self.here, kind)[layer]
        flat = _by_example(values)
        B, n = flat.shape

        def slopes(moved: Floats) -> Floats:
            quantities = list(getattr(self.here, kind))
            quantities[layer] = moved.reshape(values.shape)
            found = self._slopes(loss, self.here._replace(**{kind: quantities}))[layer]
            return np.zeros((B, n)) if found is None else np.broadcast_to(_by_example(found), (B, n))

        now = slopes(flat)
        noise = ROUNDING + np.max([abs(slopes(jitter(flat)) - now) for jitter in _jitters()], axis=0)
        if not now.any() and all(not slopes(flat + s).any() for s in (-FIRST, FIRST)):
            return np.zeros((B, n, n)), np.zeros((B, n, n))  # the loss does not see this layer
        columns = []
        for j, unit in enumerate(np.eye(n)):
            size, moved = abs(flat[:, j : j + 1]), partial(lambda u, h: slopes(flat + h * u), unit)
            # Slopes like -t / o change over the size of o, others over 1, or need that much to stand out of rounding.
            value, error = derivative(moved, np.where(size > 0, size, 1), noise, 2 * LEVELS)
            other, its_error = derivative(moved, np.maximum(1, size), noise)
            better = (error > 1e-3 * abs(value)) & (its_error < error)
            columns.append((np.where(better, other, value), np.where(better, its_error, error)))
        H, E = zip(*columns, strict=True)
        return np.stack(H, axis=-1), np.stack(E, axis=-1)

    def _slopes(self, loss: LossFunction, activity: Activity) -> Sequence[Any]:
        """First derivatives of a loss at each layer, None where it has none."""
        nothing = (None,) * (len(activity.a) - 1)
        if (term := matched(loss, self.net.layers[-1])) is not None:
            outputs = Outputs(activity.z[-1], (*nothing, None))
            return [*nothing, term.gradients(outputs, NetworkTargets(self.targets, {})).logits]
        if defines(loss, "d_loss", "loss"):
            return loss.d_loss([np.array(a) for a in activity.a], np.array(self.targets))
        total = jax.grad(lambda a: sum(t.sum() for t in loss.loss(a, self.targets) if t is not None))
        slopes: list[Any] = total([jax.numpy.asarray(a) for a in activity.a])
        return slopes


@jax.jit
def _values_at_logits(term: AtLogits, logits: jax.Array, targets: jax.Array) -> jax.Array:
    return term.values(Outputs(logits, ()), NetworkTargets(targets, {}))


def _by_example(array: Any) -> Floats:
    found = np.asarray(array, np.float64)
    return found.reshape(len(found), -1) if found.ndim else found


def _jitters() -> list[Callable[..., Floats]]:
    """Functions that change each entry of an array in its last digits and by an absolute amount, up as well as down."""

    def jitter(rng: np.random.RandomState, sign: int, x: Floats, absolute: float = 0.0) -> Floats:
        return x + sign * (ROUNDING * abs(x) + absolute) * rng.choice([-1, 1], x.shape)

    return [partial(jitter, np.random.RandomState(seed), sign) for seed in (0, 1) for sign in (-1, 1)]


def _product(J: Floats, H: Floats) -> Floats:
    """J'HJ, summed over examples."""
    P = J.shape[-1]
    return J.reshape(-1, P).T @ (H @ J).reshape(-1, P)


def _compare(net: NetworkCore, what: str, used: Floats, reference: _Estimate) -> None:
    allowed = SAFETY * reference.error + TOLERANCE * reference.size
    difference = np.where(np.isfinite(used), abs(used - reference.value), np.inf)
    # An unbounded error says nothing, as where the loss is infinite.
    wrong = np.isfinite(allowed) & (difference > allowed)
    if not wrong.any():
        return
    worst = np.unravel_index(int(np.where(wrong, difference, 0).argmax()), used.shape)
    names = " and ".join(_place(net, int(index)) for index in worst)
    raise DerivativeError(
        f"The {what} disagrees with finite differences at {names}: the solver uses {used[worst]:.6g}, differences give "
        f"{reference.value[worst]:.6g} +- {reference.error[worst]:.1g}. {_advice(net)}"
    )


def _advice(net: NetworkCore) -> str:
    """What to check: only code that is not the package's own."""
    layers = [f"layer {i} ({type(layer).__name__})" for i, layer in enumerate(net.layers) if not is_built_in(layer)]
    if net.looped_plant is not None and not is_built_in(net.looped_plant):
        layers.append(f"the plant ({type(net.looped_plant).__name__})")
    losses = [type(loss).__name__ for loss in loss_funcs.flatten(net.loss) if not is_built_in(loss)]
    checks = [f"the d_activation of {' and '.join(layers)}, or whether it is differentiable"] if layers else []
    checks += [f"the d_loss and d2_loss of {' and '.join(losses)}"] if losses else []
    if not checks:
        return "All layers and losses are built in, so hessianfree is at fault: report it with the network and data."
    return f"Check {'; and '.join(checks)}."


def _place(net: NetworkCore, index: int) -> str:
    """The connection that a position in the flat vector belongs to."""
    for (pre, post), (_, middle, end) in net.offsets.items():
        if index < end:
            kind = "weight" if index < middle else "bias"
            place = f"recurrent {kind} of layer {pre}" if pre == post else f"{kind} of connection {pre} -> {post}"
            return f"a {place} (position {index})"
    raise IndexError(index)


# ---- derivatives from values alone -----------------------------------------------------------------------------------


def derivative(
    function: Callable[[Floats], Floats], unit: Floats, noise: Floats, levels: int = LEVELS
) -> tuple[Floats, Floats]:
    """Central differences with Ridders' extrapolation, entry by entry at the step that suits it.

    Args:
        function: of a displacement shaped like `unit`.
        unit: displacement over which the function changes notably; it broadcasts against the values.
        noise: rounding error of the values.
        levels: number of steps to try at most.

    Returns:
        Derivative and error estimate; the error is infinite where no step gave a finite value.
    """
    best, error = np.zeros(noise.shape), np.full(noise.shape, np.inf)
    row: list[Floats] = []
    for level in range(levels):
        h = FIRST / RATIO**level * unit
        ahead, behind = function(h), function(-h)
        rounding = (noise + ROUNDING * np.maximum(abs(ahead), abs(behind))) / h
        previous, row = row, [(ahead - behind) / (2 * h)]
        for k, coarser in enumerate(previous, 1):
            row.append(row[-1] + (row[-1] - coarser) / (RATIO ** (2 * k) - 1))
            found = np.maximum(abs(row[k] - row[k - 1]), abs(row[k] - coarser)) + rounding
            better = found < error
            best, error = np.where(better, row[k], best), np.where(better, found, error)
        if level >= 2 and ((error <= ENOUGH * abs(best)) | (error <= RATIO * rounding)).all():
            break
    return best, error
