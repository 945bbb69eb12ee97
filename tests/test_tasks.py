from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree import tasks

NAMES = sorted(tasks.ALL)
N, T = 64, 37  # T no multiple of ten: ranges are rounded down
# n_inputs, n_outputs, steps, shortest T, output layer, loss
EXPECTED = {
    "addition": (2, 1, T, 10, "Linear", "SquaredError"),
    "multiplication": (2, 1, T, 10, "Linear", "SquaredError"),
    "xor": (2, 1, T, 10, "Logistic", "BinaryCrossEntropy"),
    "temporal_order": (8, 4, T, 10, "Softmax", "CrossEntropy"),
    "temporal_order_3bit": (8, 8, T, 10, "Softmax", "CrossEntropy"),
    "random_permutation": (100, 100, T, 2, "Softmax", "CrossEntropy"),
    "memorization_5bit": (4, 3, T + 11, 1, "Softmax", "CrossEntropy"),
    "memorization_20bit": (7, 6, T + 21, 1, "Softmax", "CrossEntropy"),
}
PAIRS = {"addition": lambda a, b: a + b, "multiplication": lambda a, b: a * b, "xor": lambda a, b: float(a != b)}
ORDERS = {  # ranges of the important symbols by T
    "temporal_order": {37: [(3, 6), (18, 21)], 100: [(10, 20), (50, 60)]},
    "temporal_order_3bit": {37: [(3, 6), (12, 15), (24, 27)], 100: [(10, 20), (33, 43), (66, 76)]},
}
STRINGS = {"memorization_5bit": (2, 5), "memorization_20bit": (5, 10)}
CLASSES = [name for name in NAMES if EXPECTED[name][4] == "Softmax"]


def draw(name, n=N, length=T, rng=0):
    return tasks.ALL[name].generate(n, length, rng)


def hot(row):
    """The symbol of a one-hot row, checked entry by entry."""
    assert sorted(row) == [0] * (len(row) - 1) + [1], row
    return list(row).index(1)


def answer(name, sequence):
    """What the task asks about one sequence of inputs, None where nothing: its definition, step by step."""
    if name in PAIRS:
        a, b = [value for value, mark in sequence if mark == 1]
        return [None] * (len(sequence) - 1) + [PAIRS[name](a, b)]
    symbols = [hot(row) for row in sequence]
    if name in ORDERS:
        code = "".join("01"[s - 4] for s in symbols if s in (4, 5))
        return [None] * (len(symbols) - 1) + [int(code, 2)]
    if name == "random_permutation":
        return [None] * (len(symbols) - 1) + [symbols[0]]
    size, length = STRINGS[name]
    return [size] * (len(symbols) - length) + symbols[:length]


def test_the_table_is_complete():
    assert set(EXPECTED) == set(tasks.ALL) == set(hf.tasks.ALL)
    assert all(task.name == name for name, task in tasks.ALL.items())
    assert "tasks" in hf.__all__
    assert set(hf.__all__) <= set(dir(hf))


@pytest.mark.parametrize("rng", [np.random.RandomState, np.random.default_rng], ids=["RandomState", "Generator"])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_layers(name, rng):
    n_in, n_out, steps, shortest, layer, loss = EXPECTED[name]
    task = tasks.ALL[name]
    inputs, targets = draw(name, rng=rng(3))
    assert (inputs.shape, inputs.dtype) == ((N, steps, n_in), np.float32)
    assert (targets.shape, targets.dtype) == ((N, steps, n_out), np.float32)
    assert (task.n_inputs, task.n_outputs, task.shortest) == (n_in, n_out, shortest)
    assert np.isfinite(inputs).all()
    assert (task.output_layer, task.loss) == (layer, loss)
    outputs = getattr(hf.nl, layer)().activation(np.zeros((N * steps, n_out)))
    value = getattr(hf.loss_funcs, loss)().batch_loss([outputs], targets.reshape(-1, n_out))
    assert np.isfinite(value)
    assert value > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_and_sources_go_on(name):
    first, again, other = draw(name, rng=5), draw(name, rng=np.random.RandomState(5)), draw(name, rng=6)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    source = np.random.default_rng(5)
    assert not np.array_equal(draw(name, rng=source)[0], draw(name, rng=source)[0])
    assert not np.array_equal(draw(name, rng=None)[0], draw(name, rng=None)[0])


@pytest.mark.parametrize("length", [T, 10, 100])
@pytest.mark.parametrize("name", NAMES)
def test_targets_are_what_the_inputs_ask_for(name, length):
    inputs, targets = draw(name, length=length)
    for sequence, target in zip(inputs, targets, strict=True):
        for wanted, row in zip(answer(name, sequence), target, strict=True):
            if wanted is None:
                assert np.isnan(row).all()
            elif name in PAIRS:
                assert row == pytest.approx(wanted, rel=1e-6)
            else:
                assert hot(row) == wanted


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_marks_fill_their_ranges(name):
    inputs, _ = draw(name, n=2000)
    values, marks = inputs[..., 0], inputs[..., 1]
    assert set(np.unique(marks)) == {0, 1}
    assert (marks.sum(axis=1) == 2).all()
    steps = np.argwhere(marks)[:, 1].reshape(-1, 2)
    assert set(steps[:, 0]) == set(range(3))
    assert set(steps[:, 1]) == set(range(3, 18))
    if name == "xor":
        assert set(np.unique(values)) == {0, 1}
    else:
        assert values.min() >= 0
        assert values.max() <= 1
        assert np.histogram(values, bins=10, range=(0, 1))[0] / values.size == pytest.approx(0.1, abs=0.01)
    assert values.mean() == pytest.approx(0.5, abs=0.01)


def test_xor_answers_are_balanced():
    assert draw("xor", n=4000)[1][:, -1].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("length", [37, 100])
@pytest.mark.parametrize("name", sorted(ORDERS))
def test_important_symbols_fill_their_ranges_between_begin_and_end(name, length):
    ranges = ORDERS[name][length]
    symbols = draw(name, n=2000, length=length)[0].argmax(axis=-1)
    assert (symbols[:, 0] == 6).all()
    assert (symbols[:, -1] == 7).all()
    assert set(np.unique(symbols[:, 1:-1])) == set(range(6))
    important = np.isin(symbols, (4, 5))
    assert (important.sum(axis=1) == len(ranges)).all()
    steps = np.argwhere(important)[:, 1].reshape(len(symbols), -1)
    assert [set(column) for column in steps.T] == [set(range(*bounds)) for bounds in ranges]
    distractors = symbols[symbols < 4]
    assert np.bincount(distractors) / len(distractors) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("name", [*ORDERS, "random_permutation"])
def test_classes_are_equally_frequent_and_in_no_order(name):
    classes = draw(name, n=160)[1][:, -1].argmax(axis=-1)
    n_classes = 2 if name == "random_permutation" else EXPECTED[name][1]
    assert np.bincount(classes).tolist() == [160 // n_classes] * n_classes
    assert (np.diff(classes) != 1).any()
    assert not np.array_equal(classes, draw(name, n=160, rng=1)[1][:, -1].argmax(axis=-1))
    uneven = np.bincount(draw(name, n=n_classes + 1)[1][:, -1].argmax(axis=-1), minlength=n_classes)
    assert sorted(uneven) == [1] * (n_classes - 1) + [2]


def test_permutation_has_two_first_symbols_and_others_between():
    symbols = draw("random_permutation", n=300)[0].argmax(axis=-1)
    assert set(symbols[:, 0]) == {0, 1}
    assert set(np.unique(symbols[:, 1:])) == set(range(2, 100))


def test_permutation_can_ask_for_every_next_symbol_and_judges_the_last():
    task = tasks.random_permutation("next", n_symbols=6, predict_next=True)
    inputs, targets = task.generate(20, 8, 0)
    symbols = [[hot(row) for row in sequence] for sequence in inputs]
    assert [[hot(row) for row in sequence] for sequence in targets] == [s[1:] + s[:1] for s in symbols]
    outputs = targets.copy()
    outputs[0, 3], outputs[1, -1] = 0, 1 - targets[1, -1]
    assert np.flatnonzero(task.wrong(outputs, targets)).tolist() == [1]


@pytest.mark.parametrize(("name", "cue"), [("memorization_5bit", 3), ("memorization_20bit", 6)])
def test_strings_blanks_and_cue_are_in_their_places(name, cue):
    size, length = STRINGS[name]
    symbols = draw(name)[0].argmax(axis=-1)
    assert set(np.unique(symbols[:, :length])) == set(range(size))
    rest = [size] * T + [cue] + [size] * length
    assert (symbols[:, length:] == rest).all()


def test_32_sequences_are_all_strings_of_5_bits():
    strings = draw("memorization_5bit", n=32)[0][:, :5].argmax(axis=-1).tolist()
    assert sorted(strings) == [[int(bit) for bit in f"{code:05b}"] for code in range(32)]
    assert strings != sorted(strings)


def test_few_strings_of_many_are_drawn_at_random():
    strings = draw("memorization_20bit", n=3000)[0][:, :10].argmax(axis=-1)
    for column in strings.T:
        assert np.bincount(column) / 3000 == pytest.approx(0.2, abs=0.03)
    assert tasks.memorization("long", 10, 60).generate(2, 1, 0)[0].shape == (2, 122, 12)  # 10^60 strings


@pytest.mark.parametrize("name", NAMES)
def test_perfect_outputs_are_right_and_nan_is_wrong(name):
    task, (_, targets) = tasks.ALL[name], draw(name)
    perfect = np.nan_to_num(targets)
    assert task.wrong(perfect, targets).dtype == bool
    assert task.wrong(perfect, targets).shape == (N,)
    assert not task.wrong(perfect, targets).any()
    assert task.solved(perfect, targets)
    assert not task.wrong(targets, targets).any()  # NaN where nothing is asked
    broken = perfect.copy()
    broken_ones = list(range(min(N, task.n_outputs)))  # each in another unit, the largest or not
    broken[broken_ones, -1, broken_ones] = np.nan
    assert np.flatnonzero(task.wrong(broken, targets)).tolist() == broken_ones


@pytest.mark.parametrize("name", ["addition", "multiplication"])
def test_numbers_are_wrong_beyond_the_tolerance(name):
    _, targets = draw(name, n=6)
    off = np.array([0.0399, -0.0399, 0.0401, -0.0401, 0, np.inf])
    assert tasks.ALL[name].wrong(targets + off[:, None, None], targets).tolist() == [0, 0, 1, 1, 0, 1]


def test_bits_are_wrong_on_the_other_side_and_between():
    targets = np.full((5, 12, 1), np.nan)
    targets[:, -1, 0] = [0, 0, 1, 1, 0]
    outputs = np.zeros_like(targets)
    outputs[:, -1, 0] = [0.49, 0.51, 0.51, 0.49, 0.5]
    assert tasks.ALL["xor"].wrong(outputs, targets).tolist() == [False, True, False, True, True]
    outputs[:, -1, 0] = [-3, 3, 3, -3, -1]
    assert tasks.ALL["xor"].wrong(outputs, targets).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_wrong_when_another_output_is_larger(name):
    task, (_, targets) = tasks.ALL[name], draw(name)
    outputs = np.nan_to_num(targets) * 0.51 + 0.01
    other = (targets[0, -1].argmax() + 1) % task.n_outputs
    outputs[0, -1, other] = 0.51
    assert not task.wrong(outputs, targets).any()
    outputs[0, -1, other] = 0.53
    assert np.flatnonzero(task.wrong(outputs, targets)).tolist() == [0]


@pytest.mark.parametrize("name", NAMES)
def test_only_memorization_judges_the_steps_before_the_last(name):
    task, (_, targets) = tasks.ALL[name], draw(name)
    outputs = np.nan_to_num(targets)
    outputs[3, 1] = [7, *[0] * (task.n_outputs - 1)]
    outputs[4, -2] = 1 - outputs[4, -2]
    assert np.flatnonzero(task.wrong(outputs, targets)).tolist() == ([3, 4] if name in STRINGS else [])
    assert task.every_step == (name in STRINGS)


def test_targets_made_unknown_are_forgiven():
    task, (_, targets) = tasks.ALL["memorization_5bit"], draw("memorization_5bit")
    outputs = targets.copy()
    outputs[2, 7] = [7, 0, 0]
    assert task.wrong(outputs, targets)[2]
    targets[:, :-5] = np.nan  # ask for the string alone
    assert not task.wrong(outputs, targets).any()


def test_solved_is_less_than_one_in_a_hundred():
    task = tasks.ALL["addition"]
    _, targets = task.generate(200, 10, 0)
    outputs = targets.copy()
    outputs[:1] += 1
    assert task.error_rate(outputs, targets) == 0.005
    assert task.solved(outputs, targets)
    outputs[:2] = targets[:2] + 1
    assert task.error_rate(outputs, targets) == 0.01
    assert not task.solved(outputs, targets)


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_told(name):
    task = tasks.ALL[name]
    task.generate(1, task.shortest, 0)
    with pytest.raises(ValueError, match=rf"T for {name} is {task.shortest - 1}; a whole number >= {task.shortest} is"):
        task.generate(1, task.shortest - 1)
    with pytest.raises(ValueError, match=r"T for .* is 20\.0; a whole number"):
        task.generate(1, 20.0)
    with pytest.raises(ValueError, match="n_sequences is 0; a whole number >= 1"):
        task.generate(0, 20)
    with pytest.raises(TypeError, match="rng is 'lucky'; a seed"):
        task.generate(1, 20, "lucky")


@pytest.mark.parametrize("name", NAMES)
def test_bad_outputs_are_told(name):
    task, (_, targets) = tasks.ALL[name], draw(name, n=3)
    for bad in (targets[0], targets[..., :0], targets[:0], np.repeat(targets, 2, axis=-1)):
        with pytest.raises(ValueError, match=rf"outputs have shape .*; {name} has \(sequences, steps"):
            task.wrong(bad, targets)
        with pytest.raises(ValueError, match="targets have shape"):
            task.wrong(targets, bad)
    with pytest.raises(ValueError, match="they must agree"):
        task.wrong(targets[:2], targets)
    with pytest.raises(ValueError, match="they must agree"):
        task.wrong(targets[:, 1:], targets)
    with pytest.raises(TypeError, match="outputs are of type"):
        task.wrong(np.full(targets.shape, "a"), targets)
    unknown = targets.copy()
    unknown[1] = np.nan
    with pytest.raises(ValueError, match="targets of sequence 1 are NaN"):
        task.wrong(targets, unknown)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.temporal_order("x", 4), "n_important is 4; the papers place 2 or 3"),
        (lambda: tasks.temporal_order("x", 1), "n_important is 1; a whole number >= 2"),
        (lambda: tasks.random_permutation("x", 2), "n_symbols is 2; a whole number >= 3"),
        (lambda: tasks.memorization("x", 1, 5), "n_symbols is 1; a whole number >= 2"),
        (lambda: tasks.memorization("x", 2, 0), "length is 0; a whole number >= 1"),
    ],
)
def test_tasks_that_make_no_sense_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
