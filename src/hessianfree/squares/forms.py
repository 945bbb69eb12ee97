"""How steps are computed: the residuals in the form of the engine, and the solver for their number."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import jacobi
from hessianfree.engine.blocks import Seeing
from hessianfree.engine.by_parts import DenseByParts, DualByParts, KrylovByParts
from hessianfree.engine.levenberg import Tolerances
from hessianfree.engine.metrics import Metric
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Method, Singular
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.residuals import Points, Residual, Residuals
from hessianfree.engine.robust import Rho
from hessianfree.engine.schur import Schur
from hessianfree.engine.searching import Box, Form
from hessianfree.engine.subsampled import FirstRows, Subsampled
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.options import Options
from hessianfree.squares.sparse import eliminable
from hessianfree.squares.subsampling import shuffled
from hessianfree.squares.terms import (
    ResidualTerm,
    as_terms,
    check_term,
    name_of,
    with_deviations,
)
from hessianfree.support import runtime

logger = logging.getLogger("hessianfree")

#: Bytes for the Jacobian, for the matrix made of it, and for the vectors of "cg"; a larger Jacobian is made by parts.
MEMORY = 2**30
#: Rows of the matrix up to which "auto" forms it, and up to which it makes the Jacobian by parts for that: with more
#: that takes longer than the iterations of "cg".
ROWS, BY_PARTS = 6_000, {"dense": 750, "dual": 250}
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
    sizes: Sizes
    box: Box | None
    tolerances: Tolerances
    init_damping: float | None
    metric: Metric
    units: NDArray[Any] | None

    @property
    def for_many(self) -> Prepared:
        """The same for many fits in one program."""
        if self.is_small:
            return self._replace(form=self.form._replace(method=Singular()))
        return self.with_products

    @property
    def with_products(self) -> Prepared:
        """The same with J'J for every lambda: for a small one all rows of J would have to be in one place."""
        method = self.form.method
        if isinstance(method, Dense):
            return self._replace(form=self.form._replace(method=replace(method, conditioned=False)))
        return self

    @property
    def is_small(self) -> bool:
        """Whether the singular values of the Jacobian are taken."""
        return isinstance(self.form.method, Singular)

    @property
    def may_begin_again(self) -> bool:
        """Whether a run that does not end well is followed by runs in other metrics: one of few parameters is."""
        return self.metric == Metric.NORMS and self.is_small

    @property
    def inputs(self) -> tuple[Points, ...]:
        """Points, weight and deviations of each term."""
        return tuple(term.points for term in self.terms)

    def points(self, step: int, inputs: tuple[Points, ...]) -> tuple[Points, ...]:
        """The points for a step, in random order if it is made from the first of them."""
        return shuffled(inputs, step) if self.subsampled else inputs

    @property
    def subsampled(self) -> bool:
        """Whether a step is made from a part of the points."""
        return isinstance(self.form.method, Subsampled)

    def threads(self) -> AbstractContextManager[None]:
        """The context in which steps are made: LAPACK uses one thread, as small problems do of themselves."""
        return nullcontext() if self.form.small else runtime.one_lapack_thread()


def prepare(options: Options, residuals: Any, params: PyTree, remember: bool = True) -> Prepared:
    """Check the residuals and choose the solver; call it inside `parameters.computing`.

    Args:
        options: what was said of the fit.
        residuals: from the user.
        params: checked.
        remember: whether to remember what was found of the functions: not if they close over traced arrays.

    Raises:
        TypeError, ValueError: as `hf.least_squares`.
    """
    dtype = parameters.precision(params)
    terms = as_terms(residuals, params)
    functions = tuple(term.function for term in terms)
    layouts = tuple(parameters.layout(term.points.at) for term in terms)
    rows = [term.points.at[0] if isinstance(term.function, Seeing) else () for term in terms]
    if options.subsample and any(rows):
        raise ValueError("subsample needs terms (r, points) or functions: what a SparseTerm sees is fixed.")
    eliminated = () if options.chunk_size else eliminable(functions, rows, params)
    fixed = options.solver, options.cg_iterations, options.chunk_size, options.subsample, options.rho(), eliminated
    kind = (_kind if remember else _kind.__wrapped__)(*fixed, functions, parameters.layout(params), layouts)
    scale = np.asarray(options.scale, dtype)
    deviating = with_deviations(terms, options.sigma, kind.shapes)
    scaled = [term._replace(points=term.points._replace(scale=scale)) for term in deviating]
    units = options.units(params)
    by_norms = isinstance(options.x_scale, str) and (options.x_scale == "jac" or kind.sizes.parameters <= FEW)
    metric = Metric.UNITS if units is not None else Metric.NORMS if by_norms else Metric.OPEN
    stated = options.box(params), options.tolerances(params), options.init_damping, metric, units
    return Prepared(kind.solver, kind.form, kind.functions, scaled, kind.shapes, kind.sizes, *stated)


class _Kind(NamedTuple):
    """What depends on functions and shapes alone."""

    solver: str
    form: Form
    functions: Residuals
    shapes: tuple[tuple[int, ...], ...]
    sizes: Sizes


@lru_cache(maxsize=256)
def _kind(
    solver: str,
    cg_iterations: int | None,
    chunk_size: int | None,
    subsample: float | None,
    rho: Rho | None,
    eliminated: tuple[int, ...],
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
    shares = [FirstRows.of(subsample or 1, shape, at is not None) for shape, at in zip(shapes, points, strict=True)]
    count = sum(share.taken for share in shares)
    itemsize = parameters.precision(params).itemsize
    pointwise = all(at is not None for at in points)
    if chunk_size is not None and not pointwise:
        first = [at is not None for at in points].index(False)
        raise ValueError(
            f"chunk_size is {chunk_size}, but term {first}, {name_of(functions[first])}, is a function without points, "
            "which cannot be cut; give it as a term (r, points), or leave chunk_size out."
        )
    cut = chunk_size is not None and any(shape[0] > chunk_size for shape in shapes)
    sizes = Sizes(size, count, itemsize, _left(eliminated, params), pointwise, cut)
    name = chosen(solver, sizes)
    if name == "cg" and not all(kind.reverse for kind in kinds):
        first = [kind.reverse for kind in kinds].index(False)
        raise TypeError(
            f"Term {first}, {name_of(functions[first])}, has no reverse mode, as functions with a while_loop have "
            "none, and solver='cg' needs it; choose solver='dense', or write the loop as a scan."
        )
    method = _method(name, cg_iterations, sizes, eliminated)
    if subsample:
        method = Subsampled(method, tuple(shares))
    few = size <= FEW
    forward_mode = all(kind.forward for kind in kinds)
    if few and not forward_mode:
        logger.warning("Residuals without forward mode (jax.custom_vjp): steps are not corrected.")
    # More residuals at once, of a point or of a whole, than there are parameters take fewer passes forward.
    at_once = [math.prod(kind.shape if at is None else kind.shape[1:]) for kind, at in zip(kinds, points, strict=True)]
    forward = tuple(
        not kind.reverse or (kind.forward and residuals > size) for kind, residuals in zip(kinds, at_once, strict=True)
    )
    inside = Residuals(functions, rho, forward if any(forward) else (), chunk_size if cut else None)
    return _Kind(
        name,
        Form(method, few and forward_mode, not few, count * size <= SMALL),
        inside,
        shapes,
        sizes,
    )


def _shapes(layout: Any) -> PyTree:
    """A pytree of shapes and types, from its layout."""
    structure, leaves = layout
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])


class Sizes(NamedTuple):
    """What the choice of a solver depends on."""

    parameters: int  # their number
    residuals: int  # their number
    itemsize: int  # bytes of a number
    left: int | None = None  # parameters that are left when the others are eliminated row by row; None if none can be
    pointwise: bool = True  # whether every term has points, so that rows of the Jacobian can be made by parts
    cut: bool = False  # whether they are to be, whatever fits

    @property
    def jacobian(self) -> int:
        """Bytes for the Jacobian and a copy of it."""
        return 2 * self.itemsize * self.parameters * self.residuals

    @property
    def whole(self) -> bool:
        """Whether the Jacobian exists as a whole: if it fits, or must."""
        return not self.cut and (self.jacobian <= MEMORY or not self.pointwise)

    def needed(self, solver: str) -> int:
        """Bytes for the matrices of a solver."""
        if solver == "cg":
            return 0
        if solver == "schur":
            left = self.left or 0
            return self.itemsize * (self.parameters * left + 3 * left**2)
        rows = self.parameters if solver == "dense" else self.residuals
        return self.itemsize * 3 * rows**2 + (self.jacobian if self.whole else 0)


def _method(name: str, cg_iterations: int | None, sizes: Sizes, eliminated: tuple[int, ...]) -> Method:
    """How to solve the equations."""
    size, count = sizes.parameters, sizes.residuals
    fitting = rows_that_fit(MEMORY, size * sizes.itemsize)
    if name == "schur":
        return Schur(eliminated)
    if name == "cg":
        most = min(max(fitting, FEWEST), CG_ITERATIONS) if cg_iterations is None else cg_iterations
        return (KrylovByParts if sizes.cut else Krylov)(min(most, size, count))
    if not sizes.whole and not sizes.cut:
        logger.warning("The Jacobian takes %.1f GiB: it is made by parts, which exist in turn.", sizes.jacobian / 2**31)
    if name == "dual" and count <= size:
        return Dual() if sizes.whole else DualByParts(max(1, fitting // 4))
    if not sizes.whole:
        return DenseByParts()
    if size <= FEW and count * size**2 <= OPERATIONS:  # for "dual" too, which has the same equations
        return Singular(by_rotations=size <= jacobi.MOST)
    return Dense()


def _left(eliminated: tuple[int, ...], params: PyTree) -> int | None:
    """How many parameters are left when some leaves are eliminated; None if none can be."""
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    return sum(sizes) - sum(sizes[leaf] for leaf in eliminated) if eliminated else None


def chosen(solver: str, sizes: Sizes) -> str:
    """The solver by size: the one with the smaller matrix if that fits in memory, else "cg".

    For a few parameters it is always "dense", which then keeps all digits. It is "schur" where most can be eliminated.

    Args:
        solver: what the user asked for.
        sizes: of the problem.

    Raises:
        ValueError: if what the user asked for does not fit in memory, or nothing can be eliminated.

    Example:
        >>> [chosen("auto", Sizes(*pair, 8)) for pair in [(200, 1_000), (1_000, 200), (10_000, 10_000)]]
        ['dense', 'dual', 'cg']
    """
    size, count, left = sizes.parameters, sizes.residuals, sizes.left
    if solver == "schur" and left is None:
        raise ValueError(
            "solver='schur' eliminates a leaf of the parameters of which each residual sees at most one row, and there "
            "is none; pass terms as hf.SparseTerm, or choose solver='auto'."
        )
    if solver != "auto":
        if (needed := sizes.needed(solver)) > 16 * MEMORY:
            by_parts = "; or give residuals as terms (r, points), whose J is made by pieces of chunk_size points"
            raise ValueError(
                f"solver={solver!r} with {size} parameters and {count} residuals needs about {needed / 2**30:.0f} GiB "
                f"for its matrices; choose solver='cg', which needs none{'' if sizes.pointwise else by_parts}."
            )
        return solver
    if left is not None and size > FEW and 2 * left <= size and left <= ROWS and sizes.needed("schur") <= MEMORY:
        return "schur"
    smaller, rows = ("dual", count) if count < size and size > FEW else ("dense", size)
    most = ROWS if sizes.whole else BY_PARTS[smaller]
    return smaller if rows <= most and sizes.needed(smaller) <= MEMORY else "cg"
