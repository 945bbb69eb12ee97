"""Curvature of a loss as linear operators, and the density of their eigenvalues.

Symbols:
    P   number of parameters           theta   the parameters, a pytree or one flat array
    f   loss, the weighted mean over examples of l_i, w_i the weights divided by their sum
    J_i Jacobian of an example's outputs with respect to theta, H_i second derivative of l_i with respect to them
    d_i gradient of l_i with respect to the outputs, for targets drawn from the model
    A   a symmetric matrix (P, P), one of
            Gauss-Newton    G = sum_i w_i J_i' H_i J_i
            Hessian         second derivative of f
            Fisher          F = sum_i w_i J_i' E[d_i d_i'] J_i
The model is linearised once, where the operator is made; a stochastic one is given None for its key, as by `value`.
What can be done with an operator is in `Curvature`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from hessianfree.curvature import spectra
from hessianfree.curvature.operators import Curvature
from hessianfree.curvature.spectra import SpectralDensity
from hessianfree.engine import linearization
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective, TrainedNetwork
from hessianfree.support import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GaussNewton(Curvature):
    """The generalised Gauss-Newton matrix G = sum_i w_i J_i' H_i J_i, positive semi-definite for a convex loss.

    Args:
        objective: `hf.Objective`, or a network after `net.cache_minibatch(inputs, targets)`.
        params: the point, a pytree of float arrays. Leave it out for a network: the point is `net.W`.
        batch: (inputs, targets) or (inputs, targets, weights). Leave it out for a network: it is the cached minibatch.
            Changes to these arrays afterwards have no effect.

    For a network, vectors are flat and ordered like `net.W`.

    Raises:
        TypeError, ValueError: if objective, parameters and data do not fit each other.

    Example:
        >>> line = Objective(lambda p, x: x @ p, "squared_error")
        >>> G = GaussNewton(line, np.zeros(2), (np.array([[1.0, 1.0], [0.0, 2.0]]), np.zeros(2)))
        >>> G.to_dense().tolist()
        [[0.5, 0.5], [0.5, 2.5]]
        >>> (G @ np.array([2.0, 0.0])).tolist()
        [1.0, 1.0]

    Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent", eq. 16.
    """

    def __init__(self, objective: Subject, params: PyTree = None, batch: Any = None) -> None:
        point = _Point.of(objective, params, batch)
        with parameters.computing(point.params):
            super().__init__(point.like, point.flattened(_gauss_newton(*point.located())))


class Hessian(Curvature):
    """The second derivative of the loss, indefinite in general; forward over reverse mode.

    Args:
        objective: as for GaussNewton.
        params: likewise.
        batch: likewise.

    Raises:
        TypeError, ValueError: as for GaussNewton, and if only first derivatives are known: for a network with layers or
            losses in numpy, or with truncation.

    Example:
        >>> wave = Objective(lambda p, x: x * p**3, lambda outputs, targets: outputs - targets)
        >>> Hessian(wave, np.array(2.0), (np.ones(1), np.zeros(1))).to_dense().tolist()
        [[12.0]]

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """

    def __init__(self, objective: Subject, params: PyTree = None, batch: Any = None) -> None:
        point = _Point.of(objective, params, batch)
        _check_has_second_derivative(point.objective)
        with parameters.computing(point.params):
            push = linearization.linearized_gradient(*point.located(loss_curvature=False))
            super().__init__(point.like, point.flattened(Partial(linearization.hessian_product, push)))


class Fisher(Curvature):
    """The Fisher information matrix of a model whose loss is the negative logarithm of a distribution of targets.

    F = sum_i w_i J_i' E[d_i d_i'] J_i, targets drawn from the model, not those of the data. For such losses
    E[d_i d_i'] = H_i: the exact Fisher matrix is G. A sampled one has the mean over S draws for E, and a rank of at
    most S B, B the number of examples. The draws are normal vectors with the covariance of d_i, which is all that F
    depends on. Targets that are NaN are unknown: they count for nothing here too.

    Args:
        objective: `hf.Objective` with a named loss, or a network after `net.cache_minibatch(inputs, targets)` whose
            loss is SquaredError, CrossEntropy behind Softmax or BinaryCrossEntropy behind Logistic.
        params: as for GaussNewton.
        batch: likewise.
        samples: S, draws; the vectors are kept, S times the model's outputs. None for the exact matrix.
        seed: of the draws.

    Raises:
        TypeError: if the loss is not the negative logarithm of a distribution.
        TypeError, ValueError: as for GaussNewton.

    Example:
        >>> rate = Objective(lambda p, x: x * p, "poisson")
        >>> data = np.ones(1), np.ones(1)
        >>> Fisher(rate, np.zeros(()), data).to_dense().tolist()
        [[1.0]]
        >>> abs(Fisher(rate, np.zeros(()), data, samples=4000).to_dense().item() - 1) < 0.1
        True

    Source: Martens 2020, "New insights and perspectives on the natural gradient method", section 9.
    """

    def __init__(
        self,
        objective: Subject,
        params: PyTree = None,
        batch: Any = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        if samples is not None:
            checks.at_least("samples", samples, 1)
        point = _Point.of(objective, params, batch)
        with parameters.computing(point.params):
            traced, at, data = point.located()
            _check_is_likelihood(traced)
            if samples is None:
                product = _gauss_newton(traced, at, data)
            else:
                local = linearization.linearized(traced, at, data)
                keys = jax.random.split(jax.random.key(seed), samples)
                deltas = linearization.sampled_gradients(traced, local, data, keys)
                product = Partial(linearization.sampled_fisher_product, traced, local, data, deltas)
            super().__init__(point.like, point.flattened(product))


def spectral_density(
    operator: Curvature, largest: int = 10, steps: int = 60, probes: int = 5, width: float = 0.01, seed: int = 0
) -> SpectralDensity:
    """Density of the eigenvalues by stochastic Lanczos quadrature, and the largest of them.

    density(t) = mean over probes of sum_k tau_k N(t; theta_k, width^2), theta the eigenvalues of the tridiagonal matrix
    of Lanczos started at a vector of random signs, tau the squares of its eigenvectors' first entries, which sum to 1.

    Args:
        operator: the matrix.
        largest: how many of the largest eigenvalues to compute (all if there are fewer).
        steps: products for each probe; extreme eigenvalues are exact after a few, the bulk needs more.
        probes: random vectors; the error falls with their square root.
        width: of the bumps, as a share of the range of eigenvalues.
        seed: of the probes.

    Returns:
        Grid, density (its integral is 1) and the largest eigenvalues.

    Raises:
        TypeError: if `operator` is not one of these operators.
        ValueError: if a number is out of range.

    Example:
        >>> line = Objective(lambda p, x: x * p)
        >>> G = GaussNewton(line, np.ones(2), (np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))))
        >>> spectral_density(G).largest.tolist()
        [10.0, 5.0]

    Source: Ghorbani, Krishnan and Xiao 2019, "An investigation into neural net optimization via Hessian eigenvalue
    density", section 2.
    """
    if not isinstance(operator, Curvature):
        raise TypeError(f"operator is a {type(operator).__name__}; GaussNewton, Hessian or Fisher is expected.")
    for name, number in {"largest": largest, "steps": steps, "probes": probes}.items():
        checks.at_least(name, number, 1)
    if not 0 < width <= 1:
        raise ValueError(f"width is {width}; a share of the range of eigenvalues, above 0 and up to 1, is expected.")
    size, eps = operator.shape[0], float(np.finfo(operator.dtype).eps)
    starts = spectra.signs(np.random.default_rng(seed), size, probes).T
    rules = [spectra.quadrature(operator.times, start, min(steps, size), eps) for start in starts]
    grid, density, sigma = spectra.density(rules, width)
    return SpectralDensity(grid, density, operator.largest(min(largest, size), seed).values, sigma)


def spectrum(
    operator: Curvature, largest: int = 10, steps: int = 60, probes: int = 5, width: float = 0.01, seed: int = 0
) -> Figure:
    """Draw the density of the eigenvalues, and the largest of them below it; costs steps x probes products and more.

    Args:
        operator: the matrix.
        largest: how many of the largest eigenvalues to mark.
        steps: as in `spectral_density`.
        probes: likewise.
        width: likewise.
        seed: likewise.

    Returns:
        A figure that belongs to nobody yet: `figure.savefig("spectrum.png")`; notebooks show it.

    Raises:
        TypeError, ValueError: as `spectral_density`.

    Example:
        >>> line = Objective(lambda p, x: x * p)
        >>> G = GaussNewton(line, np.ones(2), (np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))))
        >>> spectrum(G, largest=1).axes[0].get_xlabel()
        'eigenvalue'
    """
    from matplotlib.figure import Figure

    found = spectral_density(operator, largest, steps, probes, width, seed)
    size = operator.shape[0]
    # A tenth of the height of a single eigenvalue's bump.
    floor = 0.1 / (size * found.width * np.sqrt(2 * np.pi))
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.semilogy(found.grid, np.maximum(found.density, 1e-3 * floor), label="density")
    panel.plot(
        found.largest,
        np.full(len(found.largest), floor),
        color="C3",
        marker="|",
        markersize=10,
        linestyle="none",
        clip_on=False,
        label="largest",
    )
    panel.set_ylim(bottom=floor)
    panel.set_xlabel("eigenvalue")
    panel.set_ylabel("density")
    panel.set_title(f"{type(operator).__name__}, {size} parameters")
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


#: What an operator may be made of.
Subject = Objective | Problem | TrainedNetwork


class _Point(NamedTuple):
    """What was asked for: an objective, checked parameters, data, and the network they belong to, if any."""

    objective: Objective | Problem
    params: PyTree
    data: Any
    network: TrainedNetwork | None

    @classmethod
    def of(cls, objective: Subject, params: PyTree, batch: Any) -> _Point:
        """Check what was given."""
        if isinstance(objective, TrainedNetwork):
            if params is not None or batch is not None:
                raise TypeError(
                    "A network brings its weights and its cached minibatch; leave params and batch out, and call "
                    "net.cache_minibatch(inputs, targets) first."
                )
            return cls(objective.problem(), objective.params(), objective.batch(), objective)
        if not isinstance(objective, Objective) and not hasattr(objective, "localize"):
            raise TypeError(
                f"objective is a {type(objective).__name__}; hf.Objective(model, loss) or a network is expected."
            )
        if not isinstance(objective, Objective) and not isinstance(batch, Batch):
            raise TypeError(
                f"With net.problem() the batch is net.batch(), after net.cache_minibatch(inputs, targets); given a "
                f"{type(batch).__name__}."
            )
        return cls(objective, parameters.checked(params), batch, None)

    def located(self, loss_curvature: bool = True) -> tuple[TracedObjective, PyTree, Batch]:
        """A traceable objective, the point and the data, checked; so is the curvature of the loss alone if it is used.

        To be called inside `parameters.computing`.
        """
        data = parameters.as_batch(self.data, self.params)
        if isinstance(self.objective, Objective):
            objective = self.objective.traced(self.params, data, curved=loss_curvature)
        else:
            objective, data = self.objective.localize(self.params, data)
        return objective, *jax.device_put(parameters.own((self.params, data)))

    @property
    def like(self) -> PyTree:
        """What vectors are shaped like."""
        return self.params if self.network is None else self.network.W

    def flattened(self, product: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
        """A product of vectors shaped like `like`."""
        if self.network is None:
            return product
        params, flat = self.network.params, self.network.flat
        return lambda v: flat(jax.device_get(product(params(np.asarray(v)))))


def _gauss_newton(objective: TracedObjective, params: PyTree, batch: Batch) -> Partial:
    """The function v -> G v."""
    local = linearization.linearized(objective, params, batch)
    return Partial(linearization.gauss_newton_product, objective, local, batch)


def _check_has_second_derivative(objective: Objective | Problem) -> None:
    if isinstance(objective, Objective):
        return
    if not isinstance(objective, TracedObjective):
        raise ValueError(
            "A layer or a loss of this network runs in numpy, where no second derivatives are known; write it with "
            "jax.numpy, or use GaussNewton."
        )
    if not objective.model.derivatives_of_value:
        raise ValueError(
            "The derivatives of a network with truncation are not those of its loss; its Hessian is that of the same "
            "network without (truncation=None). GaussNewton takes the truncated one."
        )


def _check_is_likelihood(objective: TracedObjective) -> None:
    if not objective.loss.is_likelihood:
        raise TypeError(
            "The Fisher matrix needs a loss that is the negative logarithm of a distribution of targets: "
            f"hf.Objective(model, loss) with a loss among {', '.join(map(repr, BY_NAME))}, or a network with "
            "SquaredError, CrossEntropy behind Softmax or BinaryCrossEntropy behind Logistic. GaussNewton serves any "
            "loss."
        )
