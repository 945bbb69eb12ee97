"""A network and an optimizer that solve the long-memory tasks.

Symbols: n tanh units; W_in, W_rec and W_out are the weights into, among and out of them, b the bias of the input.

Three things make the difference, all heuristics that were found by trying at 50 steps:
    - Recurrent weights that neither grow nor fade. They are orthogonal, with small input weights, so that the units
      stay where tanh is nearly linear and a symbol is still there 60 steps later.
    - Where the answer is in a sum over time (`Task.integrates`), half of the units remember and half look: see
      `network`. Orthogonal weights turn whatever they hold, and so store the same number differently at each step.
    - Structural damping as strong as the damping itself (Martens and Sutskever 2011). Without it, early updates
      destroy the recurrent weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.networks.arguments import random_source
from hessianfree.networks.parts import loss_funcs
from hessianfree.networks.rnnet import RNNet
from hessianfree.optimizers.hessian_free import HessianFree
from hessianfree.support import checks
from hessianfree.tasks.sequences import SOLVED, Floats, Task
from hessianfree.training.results import Result

SEQUENCES, MINIBATCH, TESTED = 10_000, 1_000, 10_000
#: Updates between two checks of whether the task is solved.
PERIOD = 4
#: Deviations of initial weights: W_in of orthogonal networks, W_out, and from units that look to those that remember.
INPUT, OUTPUT, BETWEEN = 0.05, 0.1, 0.01
#: Structural damping, as a multiple of lambda.
STRUCTURAL = 1.0


def optimizer(task: Task) -> HessianFree:
    """Hessian-free optimization with settings for these tasks.

    It makes 60 CG iterations, the warm start conjugate. Curvature is computed on a quarter of each minibatch, but on
    all sequences where the task has few different ones. Lambda starts at 0.05, and falls by half after a good update.

    Args:
        task: what is to be solved.

    Returns:
        A fresh optimizer; give it to `network` and to `run_epochs`.

    Example:
        >>> from hessianfree import tasks
        >>> optimizer(tasks.ALL["addition"]).CG_iter
        60
    """
    return HessianFree(
        CG_iter=60,
        init_damping=0.05,
        warm_start="conjugate",
        curvature_batch=None if _n_sequences(task) < MINIBATCH else 0.25,
        damping_rule=LevenbergMarquardt(lower_by=1 / 2),
    )


def network(task: Task, optimizer: HessianFree, units: int = 100, rng: Any = 0) -> RNNet:
    """A network of one recurrent layer of tanh units, with initial weights for the task and structural damping.

    W_rec is orthogonal, W_in of deviation 0.05. Where `task.integrates`, the first n/2 units remember and the others
    look, in blocks

        W_rec = [[I, 0],     W_in = [0, A],     b = [0, a],
                 [B, 0]]

    A and a of deviation 1, B of 0.01: a unit that looks is a random nonlinear function of the present input, and a unit
    that remembers adds up what such units saw. B is small because what is added up must not saturate tanh in T steps.

    Args:
        task: what is to be solved; it sets the sizes of input and output, the output layer and the loss.
        optimizer: what will train the network; structural damping follows its damping.
        units: tanh units, n, at least 2.
        rng: a seed, a numpy RandomState or Generator, or None for a different draw each time.

    Returns:
        A network n_in - n - n_out.

    Raises:
        ValueError: if units < 2.
        TypeError: if rng is not a source of random numbers.

    Example:
        >>> from hessianfree import tasks
        >>> task = tasks.ALL["xor"]
        >>> network(task, optimizer(task)).shape
        (2, 100, 1)

    Source: structural damping: Martens and Sutskever 2011, section 3.2.
    """
    n, source = checks.at_least("units", units, 2), random_source(rng)
    damping = loss_funcs.StructuralDamping(STRUCTURAL, layers=[1], optimizer=optimizer)
    net = RNNet(
        [task.n_inputs, n, task.n_outputs],
        layers=["Linear", "Tanh", task.output_layer],
        loss_type=[getattr(loss_funcs, task.loss)(), damping],
        W_init_params={"coeff": [INPUT, OUTPUT]},
        W_rec_params={"init_type": "orthogonal"},
        rng=source,
    )
    if task.integrates:
        _integrate(net, source)
    return net


def _integrate(net: RNNet, source: Any) -> None:
    """Replace initial weights by those of units that remember and units that look; see `network`."""
    weights = net.params()
    (W_in, b), (W_rec, _), (W_out, _) = weights[0, 1], weights[1, 1], weights[1, 2]
    n, half = len(W_rec), len(W_rec) // 2
    W_in[:], b[:], W_rec[:] = 0, 0, 0
    W_in[:, half:], b[half:] = source.normal(0, 1, (len(W_in), n - half)), source.normal(0, 1, n - half)
    W_rec[:half, :half] = np.eye(half)
    W_rec[half:, :half] = source.normal(0, BETWEEN, (n - half, half))
    W_out[:] = source.normal(0, OUTPUT, W_out.shape)


class Check(NamedTuple):
    """How a network did on test sequences during a run."""

    updates: int  # so far
    seconds: float  # since the start, compilation and checks included
    wrong: float  # share of wrong test sequences


@dataclass(frozen=True)
class Attempt:
    """A network that `solve` trained, and how it did.

    Attributes:
        net: the trained network.
        checks: how it did every few updates and at the end.
        result: of the run.
    """

    net: RNNet
    checks: list[Check] = field(repr=False)
    result: Result = field(repr=False)

    @property
    def wrong(self) -> float:
        """Share of wrong test sequences at the end."""
        return self.checks[-1].wrong

    @property
    def solved(self) -> bool:
        """Whether under 1 % of the test sequences were wrong at the end."""
        return self.wrong < SOLVED


def solve(
    task: Task,
    T: int = 50,
    *,
    units: int = 100,
    rng: Any = 0,
    sequences: int | None = None,
    tested: int = TESTED,
    max_seconds: float | None = 600,
    printing: bool = True,
) -> Attempt:
    """Train a network on a task until under 1 % of test sequences are wrong, or the time is over.

    The network is `network(task, optimizer(task))`, trained by `run_epochs` in minibatches of 1,000. Every four updates
    it is judged on sequences that it is not trained on.

    Args:
        task: of `ALL`, or one of your own.
        T: length of the problem in steps, as in `Task.generate`.
        units: tanh units.
        rng: of all draws: a seed, a numpy RandomState or Generator, or None for a different run each time.
        sequences: to learn from; by default 10,000, or all different ones if there are fewer.
        tested: test sequences.
        max_seconds: seconds after which the present update is the last, compilation and checks included; None for no
            limit.
        printing: whether to print a line at each check.

    Returns:
        The network, and how it did.

    Raises:
        ValueError: if T, units, sequences or tested are too small, or max_seconds is not above 0.
        TypeError: if rng is not a source of random numbers.

    Example:
        >>> from hessianfree import tasks
        >>> short = tasks.memorization("one bit", n_symbols=2, length=1)
        >>> solve(short, T=3, units=10, tested=20, printing=False).solved
        True
    """
    source = random_source(rng)
    training = task.generate(_n_sequences(task) if sequences is None else sequences, T, source)
    checking = _Checking(task, task.generate(tested, T, source), printing)
    chosen = optimizer(task)
    net = network(task, chosen, units, source)
    checking.begin(net)
    result = net.run_epochs(
        *training,
        chosen,
        max_epochs=_FOREVER,
        minibatch_size=MINIBATCH if len(training[0]) > MINIBATCH else None,
        target_err=0,
        print_period=None,
        max_seconds=max_seconds,
        callbacks=[checking],
    )
    checking.conclude()
    return Attempt(net, checking.checks, result)


#: Epochs of a run that something else ends.
_FOREVER = 10**9


class _Checking:
    """A callback that judges the network every few updates, and ends the run when the task is solved."""

    def __init__(self, task: Task, test: tuple[Floats, Floats], printing: bool) -> None:
        self.task, self.test, self.printing = task, test, printing
        self.checks: list[Check] = []

    def begin(self, net: RNNet) -> None:
        """Count from here."""
        self.net, self.updates, self.start = net, 0, time.perf_counter()

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> bool:
        self.updates += 1
        return self.updates % PERIOD == 0 and self._check() < SOLVED

    def conclude(self) -> None:
        """Judge the last weights, unless that is done."""
        if not self.checks or self.checks[-1].updates != self.updates:
            self._check()

    def _check(self) -> float:
        x, t = self.test
        parts = range(0, len(x), MINIBATCH)  # the activity of all sequences at once would take much memory
        outputs = np.concatenate([self.net.forward(x[i : i + MINIBATCH])[-1] for i in parts])
        wrong = self.task.error_rate(outputs, t)
        self.checks.append(Check(self.updates, time.perf_counter() - self.start, wrong))
        if self.printing:
            print(f"{self.task.name}: {self.updates} updates, {self.checks[-1].seconds:.0f} s, {wrong:.2%} wrong")
        return wrong


def _n_sequences(task: Task) -> int:
    """Sequences to learn from, by default."""
    return SEQUENCES if task.distinct is None else min(SEQUENCES, task.distinct)
