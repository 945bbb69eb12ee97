"""How steps are computed: the residuals in the form of the engine, and the solver for their number."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.levenberg import Box, Form, Tolerances
from hessianfree.engine.metrics import Metric
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Method, Singular
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.residuals import Points, Residual, Residuals
from hessianfree.engine.robust import Rho
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.options import Options
from hessianfree.least_squares.terms import (
    ResidualTerm,
    as_terms,
    check_term,
    name_of,
    with_deviations,
)
from hessianfree.objective import parameters
from hessianfree.support import runtime

logger = logging.getLogger("hessianfree")

#: Bytes for the Jacobian and the matrix made of it, and rows of that matrix, up to which "auto" forms them. The vectors
#: of "cg" take as many bytes.
MEMORY, ROWS = 2**30, 6_000
#: Vectors that "cg" keeps if they fit, and in any case.
CG_ITERATIONS, FEWEST = 250, 10
#: Parameters, and operations, up to which "dense" takes singular values in place of Cholesky factors.
FEW, OPERATIONS = 32, 10**8
#: Entries of the Jacobian up to which a step takes no longer than to start it: it is compiled fast, not to be fast.
SMALL = 10**4


class Prepared(NamedTuple):
    """Checked residuals in the form of the engine, with all that a step needs besides a state."""

    solver: str
    form: Form
    functions: Residuals
    terms: list[ResidualTerm]
    shapes: tuple[tuple[int, ...], ...]  # of the residuals of each term
    box: Box | None
    tolerances: Tolerances
    init_damping: float | None
    metric: Metric
    units: NDArray[Any] | None

    @property
    def may_begin_again(self) -> bool:
        """Whether a run that does not end well is followed by runs in other metrics: one of few parameters is."""
        return self.metric == Metric.NORMS and isinstance(self.form.method, Singular)

    @property
    def inputs(self) -> tuple[Points, ...]:
        """Points, weight and deviations of each term."""
        return tuple(term.points for term in self.terms)

    def threads(self) -> AbstractContextManager[None]:
        """The context in which steps are made: LAPACK uses one thread, as small problems do of themselves."""
        return nullcontext() if self.form.small else runtime.one_lapack_thread()


def prepare(options: Options, residuals: Any, params: PyTree) -> Prepared:
    """Check the residuals and choose the solver; call it inside `parameters.computing`.

    Args:
        options: what was said of the fit.
        residuals: from the user.
        params: checked.

    Raises:
        TypeError, ValueError: as `hf.least_squares`.
    """
    dtype = parameters.precision(params)
    terms = as_terms(residuals, dtype)
    functions = tuple(term.function for term in terms)
    layouts = tuple(parameters.layout(term.points.at) for term in terms)
    fixed = options.solver, options.cg_iterations, options.rho()
    kind = _kind(*fixed, functions, parameters.layout(params), layouts)
    scale = np.asarray(options.scale, dtype)
    deviating = with_deviations(terms, options.sigma, kind.shapes)
    scaled = [term._replace(points=term.points._replace(scale=scale)) for term in deviating]
    units = options.units(params)
    size = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))
    by_norms = isinstance(options.x_scale, str) and (options.x_scale == "jac" or size <= FEW)
    metric = Metric.UNITS if units is not None else Metric.NORMS if by_norms else Metric.OPEN
    stated = options.box(params), options.tolerances(params), options.init_damping, metric, units
    return Prepared(kind.solver, kind.form, kind.functions, scaled, kind.shapes, *stated)


class _Kind(NamedTuple):
    """What depends on functions and shapes alone."""

    solver: str
    form: Form
    functions: Residuals
    shapes: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def _kind(
    solver: str,
    cg_iterations: int | None,
    rho: Rho | None,
    functions: tuple[Residual, ...],
    params_layout: Any,
    layouts: tuple[Any, ...],
) -> _Kind:
    """The solver's name, how to compute steps with it, and the shapes of the residuals."""
    params, points = _shapes(params_layout), [_shapes(layout) for layout in layouts]
    numbered = list(enumerate(zip(functions, points, strict=True)))
    kinds = [check_term(number, function, at, params) for number, (function, at) in numbered]
    shapes = tuple(kind.shape for kind in kinds)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    count = sum(math.prod(shape) for shape in shapes)
    itemsize = parameters.precision(params).itemsize
    name = chosen(solver, size, count, itemsize)
    if name == "cg" and not all(kind.reverse for kind in kinds):
        first = [kind.reverse for kind in kinds].index(False)
        raise TypeError(
            f"Term {first}, {name_of(functions[first])}, has no reverse mode, as functions with a while_loop have "
            "none, and solver='cg' needs it; choose solver='dense', or write the loop as a scan."
        )
    accelerated = all(kind.forward for kind in kinds)
    if not accelerated:
        logger.warning("Residuals without forward mode (jax.custom_vjp): steps are not corrected.")
    # More residuals at once, of a point or of a whole, than there are parameters take fewer passes forward.
    at_once = [math.prod(kind.shape if at is None else kind.shape[1:]) for kind, at in zip(kinds, points, strict=True)]
    forward = tuple(
        not kind.reverse or (kind.forward and residuals > size) for kind, residuals in zip(kinds, at_once, strict=True)
    )
    inside = Residuals(functions, rho, forward if any(forward) else ())
    return _Kind(
        name,
        Form(_method(name, cg_iterations, size, count, itemsize), accelerated, count * size <= SMALL),
        inside,
        shapes,
    )


def _shapes(layout: Any) -> PyTree:
    """A pytree of shapes and types, from its layout."""
    structure, leaves = layout
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])


def _method(name: str, cg_iterations: int | None, size: int, count: int, itemsize: int) -> Method:
    """How to solve the equations."""
    if name == "dual" and count <= size:
        return Dual()
    if name in ("dense", "dual"):  # the same equations
        return Singular() if size <= FEW and count * size**2 <= OPERATIONS else Dense()
    fitting = min(max(rows_that_fit(MEMORY, size * itemsize), FEWEST), CG_ITERATIONS)
    return Krylov(min(fitting if cg_iterations is None else cg_iterations, size, count))


def chosen(solver: str, size: int, count: int, itemsize: int) -> str:
    """The solver by size: the one with the smaller matrix if it and the Jacobian fit in memory, else "cg".

    For a few parameters it is always "dense", which then keeps all digits.

    Args:
        solver: what the user asked for.
        size: number of parameters.
        count: number of residuals.
        itemsize: bytes of a number.

    Raises:
        ValueError: if the matrices that the user asked for do not fit in memory.

    Example:
        >>> chosen("auto", 200, 1_000, 8), chosen("auto", 1_000, 200, 8), chosen("auto", 10_000, 10_000, 8)
        ('dense', 'dual', 'cg')
    """
    rows = {"auto": min(size, count), "dense": size, "dual": count, "cg": 0}[solver]
    needed = itemsize * (2 * size * count + 3 * rows**2) if rows else 0
    if solver == "auto":
        smaller = "dual" if count < size and size > FEW else "dense"
        return smaller if needed <= MEMORY and rows <= ROWS else "cg"
    if needed > 16 * MEMORY:
        raise ValueError(
            f"solver={solver!r} with {size} parameters and {count} residuals needs about {needed / 2**30:.0f} GiB for "
            "the Jacobian and the matrix made of it; choose solver='cg', which needs neither."
        )
    return solver
