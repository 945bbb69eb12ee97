"""The equations of these rows, each with its residuals, where they are taken, and what is known of its solution.

A problem has several forms: what u(params, point) is, and which residuals remain. "soft" is u = N, a network, with a
residual for every condition. Elsewhere u has the initial values, and often the boundary values, whatever N is. A point
is (x, t), or (x_1, ..., x_d) without time.

What can be chosen is in `Settings`: the network, the points, the weights of the residuals, the options of
`hf.least_squares`. Nothing here depends on the optimizer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pde import forms, references
from pde.forms import Form
from pde.points import Cluster, Floats, chosen, draw

#: Weights (n_in, n_out) and biases (n_out,) of each layer.
Params = list[tuple[Floats, Floats]]
#: What the peers do, unless a problem says otherwise.
PEERS = {"warm_up": 1000, "rate": 5e-3, "renew": 0}
#: Points to choose from, for each that is chosen in proportion to its residual.
CANDIDATES = 10
#: A residual r(params, point), its points and the weight of its mean square.
Term = tuple[Callable[..., Any], Floats, float]


@dataclass(frozen=True)
class Settings:
    """How a problem is solved.

    The peers take form, network, points and weights from here too, and their own from `peers`: the updates of Adam
    that L-BFGS and the self-scaled Broyden method begin with, the rate of Adam, which falls by 2 % every 1,000 updates,
    and the steps between new points, 0 to keep them.
    """

    form: str
    hidden: tuple[int, ...]  # units of the hidden layers
    counts: Mapping[str, int]  # of points for each residual
    sampling: str = "sobol"
    clusters: tuple[Cluster, ...] = ()  # of the points of the equation
    weights: Mapping[str, float] = field(default_factory=dict)  # of residuals; 1 for those not named
    first: float = 1.0  # what the weights of the first layer are multiplied by at the start
    options: Mapping[str, Any] = field(default_factory=dict)  # of hf.least_squares
    coarse: tuple[int, float] | None = None  # n and a loss: begin with every n-th point, until the loss is below this
    marching: tuple[float, int] | None = None  # a share and n: begin with this share of the time, grow n steps
    resample_every: int = 0  # steps of hf.least_squares between new points; 0 to keep them
    adaptive: tuple[float, float] | None = (
        None  # k and c: new points of the equation are chosen in proportion to |r|^k / mean + c
    )
    peers: Mapping[str, float] = field(default_factory=lambda: dict(PEERS))

    def but(self, changes: Mapping[str, Any]) -> Settings:
        """With changes, which may come from JSON; those of mappings are added to what is there."""
        made: dict[str, Any] = {}
        for name, value in changes.items():
            before = getattr(self, name)
            if isinstance(before, Mapping):
                made[name] = {**before, **value}
            elif name == "clusters":
                made[name] = tuple(Cluster(*cluster) for cluster in value)
            else:
                made[name] = tuple(value) if isinstance(value, list) else value
        return replace(self, **made)


class Known(NamedTuple):
    """The solution at points, (n, d) and (n,)."""

    points: Floats
    values: Floats


@dataclass(frozen=True)
class Problem:
    """An equation, and what a method is measured by."""

    name: str
    title: str
    forms: Mapping[str, Form]
    known: Callable[[], Known]
    settings: Settings  # what has been chosen for it
    bars: Mapping[float, float]  # errors to reach -> seconds for it
    measure: str = "relative L2 error"  # or "RMSE"

    def form(self, settings: Settings) -> Form:
        """The form that is set.

        Raises:
            ValueError: if the problem does not have it.
        """
        if settings.form not in self.forms:
            raise ValueError(f"{self.name} has no form {settings.form!r}; one of {', '.join(self.forms)} is expected.")
        return self.forms[settings.form]

    def terms(self, settings: Settings, seed: int) -> list[Term]:
        """For `hf.least_squares`."""
        conditions, points = self.form(settings).conditions, self.points(settings, seed)
        weights = [settings.weights.get(condition.name, 1.0) for condition in conditions]
        return [(c.residual, at, w) for c, at, w in zip(conditions, points, weights, strict=True)]

    def points(
        self, settings: Settings, seed: int, step: int = 0, params: Any = None, horizon: float = 1.0
    ) -> list[Floats]:
        """The points of every residual.

        Args:
            settings: how many, and where.
            seed: of the choices.
            step: for other points at other steps.
            params: for adaptive points, in the settings that have them.
            horizon: share of the time that points are taken from; time is the last coordinate, from 0 to 1.
        """
        found = []
        for number, condition in enumerate(self.form(settings).conditions):
            rng = np.random.default_rng([seed, step, number])
            count, of_equation = settings.counts[condition.name], condition.name == "equation"
            adaptive = settings.adaptive if of_equation and params is not None else None
            clusters = settings.clusters if of_equation else ()
            drawn = draw(condition.region, count * (CANDIDATES if adaptive else 1), settings.sampling, rng, clusters)
            if adaptive:
                sizes = np.abs(np.asarray(_values(condition.residual, params, drawn)))
                drawn = drawn[chosen(sizes, count, *adaptive, rng)]
            if horizon < 1:
                drawn[:, -1] *= horizon
            found.append(drawn)
        return found

    def start(self, settings: Settings, seed: int) -> Params:
        """Normal weights of variance 2 / (n_in + n_out) (Glorot and Bengio 2010), and biases of zero."""
        rng = np.random.default_rng(seed)
        sizes = [self.form(settings).inputs, *settings.hidden, 1]
        layers = [
            (rng.standard_normal((m, n)) * np.sqrt(2 / (m + n)), np.zeros(n)) for m, n in itertools.pairwise(sizes)
        ]
        return [(settings.first * layers[0][0], layers[0][1]), *layers[1:]]

    def error(self, settings: Settings) -> Callable[[Any], float]:
        """A function of the parameters: the distance from the solution, by `measure`."""
        known = self.known()
        scale = rms(known.values) if self.measure == "relative L2 error" else 1.0
        solution, points = self.form(settings).solution, jnp.asarray(known.points)
        return lambda params: rms(np.asarray(_values(solution, params, points)) - known.values) / scale


@partial(jax.jit, static_argnums=0)
def _values(function: Callable[..., Any], params: Any, points: Any) -> Any:
    """A function of parameters and a point, at many points."""
    return jax.vmap(function, (None, 0))(params, points)


def rms(values: Floats) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


# ---- what is known ---------------------------------------------------------------------------------------------------


def on_grid(x: Floats, t: Floats, solution: Callable[[Floats, Floats], Floats]) -> Known:
    """A solution at all pairs of places and times; it takes both in the shape (len(x), len(t))."""
    at = np.meshgrid(x, t, indexing="ij")
    return Known(np.stack(at, axis=-1).reshape(-1, 2), solution(*at).ravel())


TIMES = np.linspace(0, 1, 101)
AROUND = -1 + 2 * np.arange(512) / 512


def _burgers(name: str, nu: float) -> Known:
    x = np.linspace(-1, 1, 256)
    return on_grid(x, TIMES, lambda x, t: references.stored(name, partial(references.burgers, x, t, nu)))


def _series(name: str, compute: Callable[[int, int], Floats]) -> Known:
    sizes = len(AROUND), len(TIMES)
    return on_grid(AROUND, TIMES, lambda *_: references.stored(name, partial(compute, *sizes)))


def _cosines() -> Known:
    points = np.random.default_rng(0).random((30_000, 5))
    return Known(points, references.cosines(points))


def _turn(solution: Callable[[Floats, Floats], Floats]) -> Known:
    return on_grid(np.linspace(0, 2 * np.pi, 255), TIMES, solution)


#: Three tenths of the points about the shock at x = 0.
SHOCK = (Cluster(0.3, 0, 0.0, 0.05),)
#: A fifth of the points about x = 0.5, where u = cos(pi x) breaks at t = 1 / pi but for dispersion, and more at the
#: end, beyond which there are none.
BREAKING = (Cluster(0.2, 0, 0.5, 0.15), Cluster(0.15, 1, 1.0, 0.01))
#: Burgers' equation, at both viscosities.
WITH_LAYER = Settings(
    "layer",
    (20, 20, 20),
    {"equation": 4000, "start": 200, "edge": 200},
    clusters=SHOCK,
    coarse=(3, 1e-4),
    marching=(0.2, 30),
    resample_every=10,
)

#: More points for the last digits, fewer of them until then.
TO_THE_END = WITH_LAYER.but({"counts": {"equation": 10000}, "coarse": (6, 1e-6), "resample_every": 5})

# ---- problems --------------------------------------------------------------------------------------------------------

PROBLEMS = {
    problem.name: problem
    for problem in [
        Problem(
            "burgers-shock",
            "Burgers' equation, viscosity 0.01 / pi",
            forms.burgers(0.01 / np.pi),
            partial(_burgers, "burgers-shock", 0.01 / np.pi),
            WITH_LAYER,
            {1e-6: 30, 4.9e-9: 300, 1e-11: np.inf},
        ),
        Problem(
            "burgers",
            "Burgers' equation, viscosity 0.01",
            forms.burgers(0.01),
            partial(_burgers, "burgers", 0.01),
            TO_THE_END,
            {1e-6: np.inf, 1e-9: np.inf, 1.9e-12: 1800},
        ),
        Problem(
            "allen-cahn",
            "the Allen-Cahn equation",
            forms.allen_cahn(),
            partial(_series, "allen-cahn", references.allen_cahn),
            Settings("layer", (24, 24, 24), {"equation": 3000, "start": 400}, coarse=(3, 1e-5), resample_every=10),
            {1e-4: np.inf, 1e-6: 600},
        ),
        Problem(
            "kdv",
            "the Korteweg-de Vries equation",
            forms.korteweg_de_vries(0.022),
            partial(_series, "kdv", references.korteweg_de_vries),
            Settings(
                "waves",
                (32, 32, 32),
                {"equation": 6500, "start": 400},
                "lattice",
                BREAKING,
                coarse=(2, 1e-4),
                marching=(0.2, 30),
                resample_every=10,
            ),
            {1e-4: np.inf, 1e-6: 600},
        ),
        Problem(
            "poisson5d",
            "Poisson's equation in five dimensions",
            forms.poisson(5),
            _cosines,
            Settings(
                "soft",
                (32, 32),
                {"equation": 3000, "edge": 1000},
                resample_every=10,
                peers=PEERS | {"renew": 500},
            ),
            {1e-4: np.inf, 2.6e-7: 900},
            "RMSE",
        ),
        Problem(
            "convection",
            "convection at velocity 40",
            forms.convection(40.0),
            partial(_turn, references.convection),
            Settings("soft", (20, 20), {"equation": 1200, "start": 100, "period": 100}),
            {1.9e-3: np.inf, 1e-6: np.inf},
        ),
        Problem(
            "reaction",
            "a reaction at rate 5",
            forms.reaction(5.0),
            partial(_turn, references.reaction),
            Settings(
                "soft",
                (20, 20),
                {"equation": 2000, "start": 200, "period": 200},
                weights={"start": 10, "period": 10},
            ),
            {9.9e-6: np.inf, 1e-8: np.inf},
        ),
        Problem(
            "wave",
            "the wave equation at speed 2",
            forms.wave(5.0),
            lambda: on_grid(np.linspace(0, 1, 255), TIMES, references.wave),
            Settings(
                "soft",
                (30, 30),
                {"equation": 2000, "start": 100, "rest": 100, "edge": 200},
                weights={"start": 100, "rest": 10, "edge": 100},
                first=4,
            ),
            {1.3e-5: np.inf, 1e-7: np.inf},
        ),
    ]
}
