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
What can be done with an operator is in `hessianfree.operators`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from hessianfree.curvature import spectra
from hessianfree.curvature.operators import Curvature
from hessianfree.curvature.spectra import Eigenpairs, Estimate, SpectralDensity
from hessianfree.engine import curvature as products
from hessianfree.engine import objective as engine
from hessianfree.engine.losses import BY_NAME, Leafwise
from hessianfree.engine.models import ModelObjective
from hessianfree.engine.trees import PyTree
from hessianfree.networks.model.windows import TruncatedObjective
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.support import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Curvature",
    "Eigenpairs",
    "Estimate",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "SpectralDensity",
    "spectral_density",
    "spectrum",
]


class GaussNewton(Curvature):
    """The generalised Gauss-Newton matrix G = sum_i w_i J_i' H_i J_i, positive semi-definite for a convex loss.

    Args:
        objective: `hf.Objective`, or `net.problem()` of a network.
        params: the point; a pytree of float arrays, `net.params()` for a network.
        batch: (inputs, targets) or (inputs, targets, weights); `net.batch()` for a network. What is done to these
            arrays later changes nothing.

    Flat vectors have the order of `ravel_pytree`, for a recurrent network not that of `net.W`: its products are
    `net.flat(G @ net.params(v))`.

    Raises:
        TypeError, ValueError: for an objective, parameters or data that do not fit.

    Example:
        >>> line = Objective(lambda p, x: x @ p, "squared_error")
        >>> G = GaussNewton(line, np.zeros(2), (np.array([[1.0, 1.0], [0.0, 2.0]]), np.zeros(2)))
        >>> G.to_dense().tolist()
        [[0.5, 0.5], [0.5, 2.5]]
        >>> (G @ np.array([2.0, 0.0])).tolist()
        [1.0, 1.0]

    Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent", eq. 16.
    """

    def __init__(self, objective: Objective | engine.Problem, params: PyTree, batch: Any) -> None:
        params = parameters.checked(params)
        with parameters.computing(params):
            local = _Located.at(objective, params, batch)
            super().__init__(params, local.gauss_newton_product())


class Hessian(Curvature):
    """The second derivative of the loss, indefinite in general; forward over reverse mode.

    Args:
        objective: `hf.Objective`, or `net.problem()` of a network.
        params: the point; a pytree of float arrays, `net.params()` for a network.
        batch: (inputs, targets) or (inputs, targets, weights); `net.batch()` for a network.

    Raises:
        TypeError, ValueError: for an objective, parameters or data that do not fit, and for a network of which only
            first derivatives are known: one with layers or losses in numpy, or with truncation.

    Example:
        >>> wave = Objective(lambda p, x: x * p**3, lambda outputs, targets: outputs - targets)
        >>> Hessian(wave, np.array(2.0), (np.ones(1), np.zeros(1))).to_dense().tolist()
        [[12.0]]

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """

    def __init__(self, objective: Objective | engine.Problem, params: PyTree, batch: Any) -> None:
        params = parameters.checked(params)
        _check_has_second_derivative(objective)
        with parameters.computing(params):
            local = _Located.at(objective, params, batch, loss_curvature=False)
            push = products.linearized_gradient(local.objective, local.params, local.batch)
            super().__init__(params, Partial(products.hessian_product, push))


class Fisher(Curvature):
    """The Fisher information matrix of a model whose loss is the negative logarithm of a distribution of targets.

    F = sum_i w_i J_i' E[d_i d_i'] J_i, targets drawn from the model, not those of the data. For the losses that have
    a name, E[d_i d_i'] = H_i: the exact Fisher matrix is G. A sampled one has the mean over S draws for E, and a rank
    of at most S B, B the number of examples. Targets that are NaN are unknown: they count for nothing here too.

    Args:
        objective: `hf.Objective` with a named loss.
        params: the point, a pytree of float arrays.
        batch: (inputs, targets) or (inputs, targets, weights).
        samples: S, sets of targets to draw; their gradients are kept, S times the model's outputs. None for the exact
            matrix.
        seed: of the draws.

    Raises:
        TypeError: for a loss that names no distribution, and for networks, whose losses do not.
        TypeError, ValueError: for parameters or data that do not fit.

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
        objective: Objective | engine.Problem,
        params: PyTree,
        batch: Any,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        params = parameters.checked(params)
        if samples is not None:
            checks.at_least("samples", samples, 1)
        with parameters.computing(params):
            local = _Located.at(objective, params, batch)
            model = _with_distribution(local.objective)
            if samples is None:
                product = local.gauss_newton_product()
            else:
                around, keys = local.linearized(), jax.random.split(jax.random.key(seed), samples)
                deltas = products.sampled_gradients(model, around, local.batch, keys)
                product = Partial(products.sampled_fisher_product, model, around, local.batch, deltas)
            super().__init__(params, product)


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
        TypeError: for something that is no operator of this file.
        ValueError: for numbers out of range.

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
    found = spectral_density(operator, largest, steps, probes, width, seed)
    size = operator.shape[0]
    return spectra.drawn(found, size, f"{type(operator).__name__}, {size} parameters")


class _Located(NamedTuple):
    """A traceable objective, checked, with the point and the data it is looked at."""

    objective: Any
    params: PyTree
    batch: engine.Batch

    @classmethod
    def at(
        cls, objective: Objective | engine.Problem, params: PyTree, batch: Any, loss_curvature: bool = True
    ) -> _Located:
        """Check everything, also the curvature of the loss alone if it is used; inside `parameters.computing`."""
        if not isinstance(objective, Objective) and not hasattr(objective, "localize"):
            raise TypeError(
                f"objective is a {type(objective).__name__}; hf.Objective(model, loss), or net.problem() of a network, "
                "is expected."
            )
        if not isinstance(objective, Objective) and not isinstance(batch, engine.Batch):
            raise TypeError(
                f"With net.problem() the batch is net.batch(), after net.cache_minibatch(inputs, targets); given a "
                f"{type(batch).__name__}."
            )
        data = parameters.as_batch(batch, parameters.precision(params))
        if isinstance(objective, Objective):
            objective = objective.traced(params, data, curved=loss_curvature)
        else:
            objective, data = objective.localize(params, data)
        return cls(objective, *jax.device_put(parameters.own((params, data))))

    def linearized(self) -> products.Local:
        """The model's outputs, and its linearisation."""
        return products.linearized(self.objective, self.params, self.batch)

    def gauss_newton_product(self) -> Partial:
        """The function v -> G v."""
        return Partial(products.gauss_newton_product, self.objective, self.linearized(), self.batch)


def _check_has_second_derivative(objective: Objective | engine.Problem) -> None:
    if isinstance(objective, TruncatedObjective):
        raise ValueError(
            "The derivatives of a network with truncation are not those of its loss; its Hessian is that of the same "
            "network without (truncation=None). GaussNewton takes the truncated one."
        )
    if hasattr(objective, "localize") and not isinstance(objective, engine.Objective):
        raise ValueError(
            "A layer or a loss of this network runs in numpy, where no second derivatives are known; write it with "
            "jax.numpy, or use GaussNewton."
        )


def _with_distribution(objective: Any) -> ModelObjective:
    """The objective, if its loss is the negative logarithm of a distribution."""
    if isinstance(objective, ModelObjective) and isinstance(objective.loss, Leafwise):
        return objective
    raise TypeError(
        "The Fisher matrix needs a loss that is the negative logarithm of a distribution of targets: "
        f"hf.Objective(model, loss) with a loss among {', '.join(map(repr, BY_NAME))}. GaussNewton serves any loss."
    )
