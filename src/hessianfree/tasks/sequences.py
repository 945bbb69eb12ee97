"""Long-memory tasks for recurrent networks: the network must remember for many timesteps.

They are the tasks of Martens and Sutskever 2011 ("Learning recurrent neural networks with Hessian-free optimization",
section 5). Most go back to Hochreiter and Schmidhuber 1997 ("Long short-term memory", section 5). `ALL` holds the
eight of them by name; the functions below make them, and variants.

The papers leave details open, such as markers, ranges and scaling. Each function says what is chosen here. It also says
where that differs from the papers, and from the programs that Sutskever published for them ("the published programs").
Marked pairs and temporal order share one difference: the papers draw the length of each sequence from T to 1.1 T; here
all sequences of a call are equally long. For several lengths, draw another T for each call.

Symbols: N sequences of S steps (S = T but for memorization), n_in inputs and n_out outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.networks.arguments import random_source
from hessianfree.support import checks

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Sampler: TypeAlias = Callable[[int, int, Any], tuple[Floats, Floats]]  # (N, T, random source) -> inputs, targets
Judge: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]  # (N, steps, n_out), twice -> (N, steps)

TOLERANCE = 0.04  # of a sum or product: Hochreiter and Schmidhuber 1997, section 5.4
SOLVED = 0.01  # share of wrong sequences below which a task counts as solved: Martens and Sutskever 2011


@dataclass(frozen=True)
class Task:
    """Sequences to learn from, and when an answer to them is wrong.

    Attributes:
        name: as in `ALL`.
        n_inputs: units of the input layer.
        n_outputs: units of the output layer.
        output_layer: the class in `hessianfree.nl` that suits the output.
        loss: the class in `hessianfree.loss_funcs` that suits the targets.
        shortest: the smallest T there is room for.
        every_step: whether a mistake at any step makes a sequence wrong, or only one at the last.
        integrates: whether the answer is in a sum over time of what each step shows, wherever it was shown; `network`
            chooses initial weights by it.
        distinct: how many different sequences there are if they are few, as for `memorization`, else None.

    Example:
        >>> task = ALL["addition"]
        >>> inputs, targets = task.generate(5, T=30, rng=0)
        >>> inputs.shape, targets.shape
        ((5, 30, 2), (5, 30, 1))
        >>> task.wrong(targets + [[[0.03]], [[0.05]], [[0]], [[-0.05]], [[float("nan")]]], targets).tolist()
        [False, True, False, True, True]
    """

    name: str
    n_inputs: int
    n_outputs: int
    output_layer: str
    loss: str
    shortest: int
    every_step: bool
    _sample: Sampler = field(repr=False)
    _misses: Judge = field(repr=False)
    integrates: bool = False
    distinct: int | None = None

    def generate(self, n_sequences: int, T: int, rng: Any = None) -> tuple[Floats, Floats]:
        """New sequences.

        Args:
            n_sequences: how many, N.
            T: length of the problem in steps; for memorization the blank steps alone.
            rng: a seed, a numpy RandomState or Generator, or None for a different draw each time.

        Returns:
            inputs (N, S, n_in) and targets (N, S, n_out), both float32; targets are NaN where nothing is asked.

        Raises:
            ValueError: if n_sequences < 1, or T < `shortest`.
            TypeError: if rng is not a source of random numbers.
        """
        n = checks.at_least("n_sequences", n_sequences, 1)
        T = checks.at_least(f"T for {self.name}", T, self.shortest)
        return self._sample(n, T, random_source(rng))

    def wrong(self, outputs: ArrayLike, targets: ArrayLike) -> NDArray[np.bool_]:
        """Which sequences count as wrong: those with a mistake at the last step, or at any (`every_step`).

        Args:
            outputs: activations of the output layer, (N, S, n_out); NaN is a mistake.
            targets: as `generate` returns them, (N, S, n_out).

        Returns:
            Booleans (N,).

        Raises:
            ValueError: if shapes do not agree or are not (N, S, n_out), or if a sequence has no known target.
            TypeError: if outputs or targets are not arrays of real numbers.
        """
        o, t = checks.numeric("outputs", outputs), checks.numeric("targets", targets)
        for name, array in (("outputs", o), ("targets", t)):
            if array.ndim != 3 or array.shape[2] != self.n_outputs or 0 in array.shape:
                wanted = f"(sequences, steps, {self.n_outputs})"
                raise ValueError(f"{name} have shape {array.shape}; {self.name} has {wanted}.")
        if o.shape != t.shape:
            raise ValueError(f"outputs have shape {o.shape}, targets {t.shape}; they must agree.")
        judged = slice(None) if self.every_step else slice(-1, None)
        o, t = o[:, judged].astype(float), t[:, judged].astype(float)
        known = ~np.isnan(t).any(axis=-1)
        if not known.any(axis=1).all():
            first = int(np.flatnonzero(~known.any(axis=1))[0])
            raise ValueError(f"targets of sequence {first} are NaN wherever it is judged; give those of generate().")
        return (known & self._misses(o, t)).any(axis=1)

    def error_rate(self, outputs: ArrayLike, targets: ArrayLike) -> float:
        """Share of wrong sequences, 0 to 1; arguments and errors as for `wrong`."""
        return float(self.wrong(outputs, targets).mean())

    def solved(self, outputs: ArrayLike, targets: ArrayLike) -> bool:
        """Whether under 1 % of the sequences are wrong; arguments and errors as for `wrong`."""
        return self.error_rate(outputs, targets) < SOLVED


def marked_pair(name: str, operation: Callable[[Floats, Floats], NDArray[Any]], *, bits: bool = False) -> Task:
    """Addition, multiplication, XOR: combine the two marked values.

    Input t is (v_t, m_t): a value, uniform in [0, 1) (a fair bit for `bits`), and a mark, 1 at the steps i and j, else
    0. i is uniform in [0, floor(T/10)), j in [floor(T/10), floor(T/2)). The target, at the last step alone, is
    operation(v_i, v_j). A sequence is wrong if |output - target| > 0.04; for bits if the output is not on the target's
    side of 1/2.

    Different from the papers:
        - Hochreiter and Schmidhuber add values of [-1, 1] and ask for 1/2 + (v_i + v_j) / 4; asked for here is the
          plain sum, as in the published programs. Halving it would make the same 0.04 twice as easy.
        - They mark the first and the last step with -1, the published programs the first and one shortly before the
          last. Here the marks are 0 and 1: all sequences of a call end together.
        - In 1997, i is one of the first ten steps whatever T is, j any other before T/2 - 1. The ranges here are those
          of the published programs, but for their i >= T/100, and for XOR T/50 to T/5 and 3T/10 to T/2.
        - 1997 counts an error of exactly 0.04 as wrong, the published programs do not.

    Args:
        name: what to call the task.
        operation: of the two values, (N,) each, to (N,).
        bits: values are 0 or 1, and so must be the result.

    Returns:
        The task; T is the length of the sequences, at least 10.

    Example:
        >>> inputs, targets = marked_pair("larger", np.maximum).generate(3, T=20, rng=1)
        >>> values, marks = inputs[..., 0], inputs[..., 1]
        >>> bool(((values * marks).max(axis=1) == targets[:, -1, 0]).all())
        True

    Source: Martens and Sutskever 2011, section 5; Hochreiter and Schmidhuber 1997, sections 5.4 and 5.5.
    """
    output_layer, loss = ("Logistic", "BinaryCrossEntropy") if bits else ("Linear", "SquaredError")
    sample = partial(_sample_marked_pair, operation=operation, bits=bits)
    misses = _on_the_wrong_side if bits else _too_far
    return Task(name, 2, 1, output_layer, loss, 10, False, sample, misses, integrates=True)


def temporal_order(name: str, n_important: int = 2) -> Task:
    """Temporal order: name the order in which two or three important symbols came.

    One-hot symbols: 0 to 3 are distractors, drawn at random; 4 and 5 the important ones, X and Y; 6 begins and 7 ends
    a sequence. The k-th important symbol stands at a random step in [floor(T a_k), floor(T a_k) + floor(T/10)), with
    a = 0.1, 0.5 for two and 0.1, 0.33, 0.66 for three. The target, at the last step alone, is the one-hot class
    sum_k b_k 2^(n-k), b_k = 0 for X, 1 for Y: XX, XY, YX, YY for two. A sequence is wrong if another class has the
    largest output.

    Different from the papers:
        - Positions are those of 1997 (10 to 20, 50 to 60 and so on, of 100 steps), scaled with T, without the end of
          each range. The published programs have T/100 to T/10, 4T/10 to 5T/10, and for three 3T/10 to 4T/10 and
          5T/10 to 6T/10.
        - Classes are equally frequent up to the remainder of N / 2^n, as in the published programs; random in 1997.
        - 1997 counts a sequence as right if all outputs are within 0.3 of the target.

    Args:
        name: what to call the task.
        n_important: 2 or 3 important symbols, for 4 or 8 classes.

    Returns:
        The task; T is the length of the sequences, at least 10.

    Raises:
        ValueError: if there is another number of important symbols.

    Example:
        >>> inputs, targets = temporal_order("order").generate(1, T=20, rng=0)
        >>> symbols = inputs[0].argmax(axis=-1)
        >>> [int(s) - 4 for s in symbols if s in (4, 5)], targets[0, -1].tolist()
        ([0, 1], [0.0, 1.0, 0.0, 0.0])

    Source: Martens and Sutskever 2011, section 5; Hochreiter and Schmidhuber 1997, section 5.6.
    """
    starts = {2: (10, 50), 3: (10, 33, 66)}.get(checks.at_least("n_important", n_important, 2))  # percent of T
    if starts is None:
        raise ValueError(f"n_important is {n_important!r}; the papers place 2 or 3 important symbols.")
    sample = partial(_sample_temporal_order, starts=starts)
    return Task(name, 8, 2 ** len(starts), "Softmax", "CrossEntropy", 10, False, sample, _another_class)


def random_permutation(name: str, n_symbols: int = 100, *, predict_next: bool = False) -> Task:
    """Random permutation: report the first symbol at the end, whatever came between.

    One-hot symbols: the first is 0 or 1, all others are drawn from 2 to n_symbols - 1. The target at the last step is
    the first symbol. A sequence is wrong if another symbol has the largest output there.

    Different from the papers:
        - They also ask for the next symbol at every other step, which cannot be predicted; `predict_next` does, and
          keeps judging the last step alone. Left out, nothing is asked before the last step.
        - In spite of the name, the symbols between are drawn independently, as in the published programs.
        - As many sequences begin with 0 as with 1, up to one.

    Args:
        name: what to call the task.
        n_symbols: at least 3. Inputs and targets take 8 N T n_symbols bytes together.
        predict_next: whether every step has a target.

    Returns:
        The task; T is the length of the sequences, at least 2.

    Raises:
        ValueError: if there are fewer than 3 symbols.

    Example:
        >>> inputs, targets = random_permutation("short", n_symbols=5).generate(2, T=4, rng=0)
        >>> inputs.argmax(axis=-1).tolist(), targets[:, -1].argmax(axis=-1).tolist()
        ([[1, 3, 2, 3], [0, 4, 2, 4]], [1, 0])

    Source: Martens and Sutskever 2011, section 5; Hochreiter and Schmidhuber 1997, section 5.2, task 2b.
    """
    size = checks.at_least("n_symbols", n_symbols, 3)
    sample = partial(_sample_random_permutation, n_symbols=size, predict_next=predict_next)
    return Task(name, size, size, "Softmax", "CrossEntropy", 2, False, sample, _another_class)


def memorization(name: str, n_symbols: int, length: int) -> Task:
    """Noiseless memorization: repeat a string of symbols after T blank steps.

    One-hot inputs: 0 to n_symbols - 1 are symbols, n_symbols is the blank and n_symbols + 1 the cue. A sequence is
    the string, T blanks, the cue, and as many blanks as the string is long: S = T + 2 length + 1. Targets are blanks
    up to and including the cue, then the string. A sequence is wrong if another symbol has the largest output at any
    step. 5 bits are 2 symbols and length 5; 20 bits are 5 symbols and length 10 (5^10 is about 2^23).

    Different from the papers:
        - Blank and cue are units of their own; the published programs reuse those of two symbols for them.
        - The published programs count T as the whole sequence.
        - They do not say how many steps of a sequence may be wrong; none may be here.
        - If N is at least n_symbols^length, every string comes equally often up to the remainder: N = 32 holds all
          strings of 5 bits, as in the published programs. Otherwise strings are drawn independently.

    Args:
        name: what to call the task.
        n_symbols: at least 2.
        length: symbols in a string, at least 1.

    Returns:
        The task; T is the number of blank steps between string and cue, at least 1.

    Raises:
        ValueError: if an argument is smaller.

    Example:
        >>> inputs, targets = memorization("2bit", n_symbols=2, length=2).generate(1, T=3, rng=0)
        >>> inputs.argmax(axis=-1).tolist(), targets.argmax(axis=-1).tolist()
        ([[0, 1, 2, 2, 2, 3, 2, 2]], [[2, 2, 2, 2, 2, 2, 0, 1]])

    Source: Martens and Sutskever 2011, section 5.
    """
    size, length = checks.at_least("n_symbols", n_symbols, 2), checks.at_least("length", length, 1)
    sample = partial(_sample_memorization, n_symbols=size, length=length)
    return Task(
        name, size + 2, size + 1, "Softmax", "CrossEntropy", 1, True, sample, _another_class, False, size**length
    )


def _sample_marked_pair(
    n: int, T: int, rng: Any, *, operation: Callable[[Floats, Floats], NDArray[Any]], bits: bool
) -> tuple[Floats, Floats]:
    inputs, targets = np.zeros((n, T, 2), np.float32), _unasked(n, T, 1)
    inputs[..., 0] = _integers(rng, 0, 2, (n, T)) if bits else rng.random((n, T))
    rows = np.arange(n)
    i, j = _integers(rng, 0, T // 10, n), _integers(rng, T // 10, T // 2, n)
    inputs[rows, i, 1] = inputs[rows, j, 1] = 1
    targets[:, -1, 0] = operation(inputs[rows, i, 0], inputs[rows, j, 0])
    return inputs, targets


def _sample_temporal_order(n: int, T: int, rng: Any, *, starts: Sequence[int]) -> tuple[Floats, Floats]:
    symbols = _integers(rng, 0, 4, (n, T))
    symbols[:, 0], symbols[:, -1] = 6, 7
    important, rows = _strings(n, 2, len(starts), rng), np.arange(n)
    for k, start in enumerate(starts):
        symbols[rows, T * start // 100 + _integers(rng, 0, T // 10, n)] = 4 + important[:, k]
    targets = _unasked(n, T, 2 ** len(starts))
    targets[:, -1] = _one_hot(important @ 2 ** np.arange(len(starts))[::-1], targets.shape[-1])
    return _one_hot(symbols, 8), targets


def _sample_random_permutation(
    n: int, T: int, rng: Any, *, n_symbols: int, predict_next: bool
) -> tuple[Floats, Floats]:
    symbols = _integers(rng, 2, n_symbols, (n, T))
    symbols[:, 0] = _strings(n, 2, 1, rng)[:, 0]
    if predict_next:
        return _one_hot(symbols, n_symbols), _one_hot(np.roll(symbols, -1, axis=1), n_symbols)
    targets = _unasked(n, T, n_symbols)
    targets[:, -1] = _one_hot(symbols[:, 0], n_symbols)
    return _one_hot(symbols, n_symbols), targets


def _sample_memorization(n: int, T: int, rng: Any, *, n_symbols: int, length: int) -> tuple[Floats, Floats]:
    shown = np.full((n, T + 2 * length + 1), n_symbols)
    wanted = shown.copy()
    shown[:, :length] = wanted[:, -length:] = _strings(n, n_symbols, length, rng)
    shown[:, length + T] = n_symbols + 1
    return _one_hot(shown, n_symbols + 2), _one_hot(wanted, n_symbols + 1)


def _unasked(n: int, steps: int, width: int) -> Floats:
    return np.full((n, steps, width), np.nan, np.float32)


def _one_hot(symbols: Integers, width: int) -> Floats:
    ones = np.zeros((*symbols.shape, width), np.float32)
    np.put_along_axis(ones, symbols[..., None], 1, axis=-1)
    return ones


def _integers(rng: Any, low: int, high: int, shape: int | tuple[int, ...]) -> Integers:
    """Uniform in [low, high): the two kinds of numpy sources disagree about the name."""
    draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return draw(low, high, shape, dtype=np.int64)


def _strings(n: int, base: int, length: int, rng: Any) -> Integers:
    """Digits (n, length) below base: all strings equally often as far as n goes, the rest at random, shuffled."""
    codes = np.arange(n - n % base**length)[:, None]
    counted = codes // base ** np.arange(length)[::-1] % base
    return rng.permutation(np.concatenate([counted, _integers(rng, 0, base, (n - len(codes), length))]))


def _too_far(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
    return ~(abs(outputs - targets) <= TOLERANCE).all(axis=-1)  # not `>`: NaN compares as false, and is a mistake


def _on_the_wrong_side(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
    return (np.sign(outputs - 0.5) != np.sign(targets - 0.5)).any(axis=-1)


def _another_class(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
    return (outputs.argmax(axis=-1) != targets.argmax(axis=-1)) | np.isnan(outputs).any(axis=-1)


ALL: dict[str, Task] = {
    task.name: task
    for task in (
        marked_pair("addition", np.add),
        marked_pair("multiplication", np.multiply),
        marked_pair("xor", np.not_equal, bits=True),
        temporal_order("temporal_order"),
        temporal_order("temporal_order_3bit", 3),
        random_permutation("random_permutation"),
        memorization("memorization_5bit", n_symbols=2, length=5),
        memorization("memorization_20bit", n_symbols=5, length=10),
    )
}
