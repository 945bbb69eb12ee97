"""Class labels as targets are ones and zeros from the entry on, and the network remembers what its outputs stand for."""

from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.networks.labels import OutputLayer, read

RNG = np.random.RandomState(0)
X = RNG.uniform(-1, 1, (24, 2)).astype(np.float32)
CLASS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
ONES = np.eye(3, dtype=np.float32)[CLASS]
NAMES = np.array(["ash", "beech", "cedar"])
SEQUENCES = RNG.uniform(-1, 1, (8, 5, 1)).astype(np.float32)
LAST = NAMES[np.arange(8) % 3]
STEPS = (np.cumsum(SEQUENCES[..., 0], axis=1) > 0).astype(int) + (SEQUENCES[..., 0] > 0.5)


def softmax(**options):
    options = {"layers": ["Linear", "Tanh", "Softmax"], "loss_type": "cross_entropy", "rng": 0, **options}
    return hf.FFNet([2, 4, 3], **options)


def logistic(**options):
    return hf.FFNet([2, 4, 1], **{"loss_type": "binary_cross_entropy", "rng": 0, **options})


def recurrent(**options):
    options = {"layers": ["Linear", "Tanh", "Softmax"], "loss_type": "cross_entropy", "rng": 0, **options}
    return hf.RNNet([1, 4, 3], **options)


def train(net, x, t, epochs=4, **options):
    optimizer = options.pop("optimizer", None) or hf.opt.HessianFree(CG_iter=4)
    return net.run_epochs(x, t, optimizer, max_epochs=epochs, **{"print_period": None, **options})


# ---- labels are ones and zeros -------------------------------------------------------------------------------------------

FORMS = {
    "integers": (CLASS, [0, 1, 2]),
    "a list": (CLASS.tolist(), [0, 1, 2]),
    "bytes of integers": (CLASS.astype(np.uint8), [0, 1, 2]),
    "from one on": (CLASS + 1, [1, 2, 3]),
    "negative": (CLASS * 10 - 10, [-10, 0, 10]),
    "strings": (NAMES[CLASS], NAMES.tolist()),
    "a list of strings": (NAMES[CLASS].tolist(), NAMES.tolist()),
    "objects": (NAMES[CLASS].astype(object), NAMES.tolist()),
    "objects that are integers": (CLASS.astype(object), [0, 1, 2]),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_train_as_their_ones_and_zeros_do(form):
    labels, classes = FORMS[form]
    by_labels, by_numbers = softmax(), softmax()
    found = train(by_labels, X, labels, minibatch_size=10)
    expected = train(by_numbers, X, ONES, minibatch_size=10)
    np.testing.assert_array_equal(by_labels.W, by_numbers.W)
    assert found.test_errors == expected.test_errors
    assert by_labels.classes.tolist() == classes
    assert by_numbers.classes is None
    np.testing.assert_array_equal(by_labels.predict(X), np.array(classes)[by_numbers.forward(X)[-1].argmax(axis=1)])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(CLASS > 0, [False, True]), ((CLASS > 0).astype(int), [0, 1]), (np.where(CLASS > 0, "yes", "no"), ["no", "yes"])],
)
def test_one_logistic_unit_tells_two_classes_apart(labels, classes):
    by_labels, by_numbers = logistic(), logistic()
    train(by_labels, X, labels)
    train(by_numbers, X, (CLASS > 0).astype(float)[:, None])
    np.testing.assert_array_equal(by_labels.W, by_numbers.W)
    assert by_labels.classes.tolist() == classes
    yes = by_numbers.forward(X)[-1][:, 0]
    np.testing.assert_array_equal(by_labels.predict(X), np.array(classes)[(yes > 0.5).astype(int)])
    np.testing.assert_allclose(by_labels.predict_proba(X), np.stack([1 - yes, yes], axis=1), rtol=1e-6)


def test_labels_of_every_timestep():
    by_labels, by_numbers = recurrent(), recurrent()
    train(by_labels, SEQUENCES, STEPS)
    train(by_numbers, SEQUENCES, np.eye(3)[STEPS])
    np.testing.assert_array_equal(by_labels.W, by_numbers.W)
    assert by_labels.predict(SEQUENCES).shape == STEPS.shape
    assert by_labels.predict_proba(SEQUENCES).shape == (8, 5, 3)
    expected = (by_labels.predict(SEQUENCES) == STEPS).mean()
    assert by_labels.score(SEQUENCES, STEPS) == pytest.approx(expected)


@pytest.mark.parametrize("truncation", [None, (5, 3)])
def test_one_label_of_a_sequence_counts_at_its_end(truncation):
    by_labels, by_numbers = recurrent(truncation=truncation), recurrent(truncation=truncation)
    t = np.full((8, 5, 3), np.nan)
    t[:, -1] = np.eye(3)[np.arange(8) % 3]
    train(by_labels, SEQUENCES, LAST)
    train(by_numbers, SEQUENCES, t)
    np.testing.assert_array_equal(by_labels.W, by_numbers.W)
    guess = by_labels.predict(SEQUENCES)
    np.testing.assert_array_equal(guess, NAMES[by_numbers.forward(SEQUENCES)[-1][:, -1].argmax(axis=1)])
    assert by_labels.predict_proba(SEQUENCES).shape == (8, 3)
    assert by_labels.score(SEQUENCES, LAST) == pytest.approx((guess == LAST).mean())


def test_weights_of_examples_count_as_repetitions():
    weights = RNG.randint(0, 3, len(X))
    one, other = softmax(dtype=np.float64), softmax(dtype=np.float64)
    result = train(one, X, NAMES[CLASS], weights=weights)
    rows = np.repeat(np.arange(len(X)), weights)
    expected = train(other, X[rows], NAMES[CLASS[rows]])
    np.testing.assert_allclose(result.test_errors, expected.test_errors, rtol=1e-8)
    assert one.score(X, NAMES[CLASS], weights) == pytest.approx(one.score(X[rows], NAMES[CLASS[rows]]))


def test_error_and_cached_minibatches_take_labels():
    net = softmax()
    assert net.error(inputs=X, targets=CLASS) == net.error(inputs=X, targets=ONES)
    assert net.classes is None  # nothing was trained
    net.cache_minibatch(X, NAMES[CLASS], [0, 3, 4])
    np.testing.assert_array_equal(net.targets, ONES[[0, 3, 4]])
    assert net.classes.tolist() == NAMES.tolist()


# ---- classes -------------------------------------------------------------------------------------------------------------


def test_whole_numbers_from_zero_stay_what_they_are_where_some_are_missing():
    net = softmax()
    train(net, X, np.where(CLASS == 1, 0, CLASS), epochs=1)
    assert net.classes.tolist() == [0, 1, 2]
    net = logistic()
    train(net, X, np.ones(len(X), bool), epochs=1)
    assert net.classes.tolist() == [False, True]


def test_classes_in_an_order_of_ones_own():
    net, plain = softmax(), softmax()
    net.classes = ["cedar", "ash", "beech"]
    train(net, X, NAMES[CLASS])
    train(plain, X, ONES[:, [2, 0, 1]])
    np.testing.assert_array_equal(net.W, plain.W)
    assert net.classes.tolist() == ["cedar", "ash", "beech"]
    net.classes[0] = "elm"  # a copy
    assert net.classes.tolist() == ["cedar", "ash", "beech"]
    two = softmax()
    two.classes = NAMES
    train(two, X, np.where(CLASS > 0, "cedar", "ash"), epochs=1)
    assert set(two.predict(X)) <= set(NAMES)


def test_later_data_are_read_by_the_classes_of_the_first_run():
    net = softmax()
    train(net, X, NAMES[CLASS], test=(X[:4], NAMES[[1, 1, 1, 2]]))
    with pytest.raises(ValueError, match=r"Among the labels are 'elm', but the classes of the network are 'ash', .*"):
        train(net, X, ["elm"] * len(X))
    with pytest.raises(ValueError, match="Among the labels are 0, 1, 2, but"):
        net.score(X, CLASS)
    net.classes = None
    train(net, X, CLASS, epochs=1)
    assert net.classes.tolist() == [0, 1, 2]
    assert net.score(X, ONES) == net.score(X, CLASS)


def test_a_run_that_does_not_begin_leaves_no_classes():
    net = softmax()
    with pytest.raises(ValueError, match="Among the labels are 'elm'"):
        train(net, X, NAMES[CLASS], test=(X[:1], ["elm"]))
    with pytest.raises(FileNotFoundError):
        train(net, X, NAMES[CLASS], file_output="/no/such/folder/run")
    assert net.classes is None


@pytest.mark.parametrize("labels", [NAMES[CLASS], CLASS + 5])
def test_classes_are_kept_in_files(labels, tmp_path):
    net = softmax()
    train(net, X, labels)
    net.save(tmp_path / "net")
    other = hf.load(tmp_path / "net")
    assert other.classes.tolist() == net.classes.tolist()
    np.testing.assert_array_equal(other.predict(X), net.predict(X))
    net = recurrent()
    train(net, SEQUENCES, STEPS[:, -1])
    net.save(tmp_path / "net")
    np.testing.assert_array_equal(hf.load(tmp_path / "net").predict(SEQUENCES), net.predict(SEQUENCES))


def test_runs_on_labels_are_resumed(tmp_path):
    whole, cut = softmax(), softmax()
    train(whole, X, NAMES[CLASS], minibatch_size=10)
    checkpoint = {"minibatch_size": 10, "checkpoint": tmp_path / "run.ckpt", "resume": True}
    train(cut, X, NAMES[CLASS], epochs=2, **checkpoint)
    train(cut, X, NAMES[CLASS], epochs=4, **checkpoint)
    np.testing.assert_array_equal(cut.W, whole.W)
    other = softmax()
    other.classes = ["cedar", "ash", "beech"]
    with pytest.raises(ValueError, match=r"Its (examples|classes): "):
        train(other, X, NAMES[CLASS], **checkpoint)


# ---- what is refused -----------------------------------------------------------------------------------------------------

MISSING = CLASS.astype(float)
MISSING[3] = np.nan
WRONG = {
    "too many": (softmax, np.arange(24) % 4, ValueError, r"4 classes, 0, 1, 2, 3, but the output layer, Softmax with 3 units, has 3"),
    "too few": (softmax, NAMES[CLASS % 2], ValueError, r"2 classes, 'ash', 'beech', but .* has 3.*set net.classes to all 3"),
    "three for two": (logistic, CLASS, ValueError, r"3 classes, 0, 1, 2, but .*Logistic with 1 unit, has 2, for no and yes"),
    "linear": (lambda: hf.FFNet([2, 4, 1], layers="Linear"), CLASS, ValueError, r"whole numbers of shape \(24,\), .* Linear with 1 unit.*array\[:, None\]"),
    "strings": (lambda: hf.FFNet([2, 4, 3]), NAMES[CLASS], TypeError, r"strings of shape \(24,\), .* Logistic with 3 units. Softmax outputs"),
    "floats": (softmax, CLASS.astype(float), ValueError, r"float64 of shape \(24,\). As labels .*astype\(int\)"),
    "gaps": (softmax, MISSING, ValueError, r"1 of them NaN. Labels have no gaps"),
    "fractions": (softmax, CLASS + 0.5, ValueError, r"targets of numbers have one for each output, \(examples, 3\)"),
    "a column": (softmax, CLASS[:, None], ValueError, r"labels of shape \(24, 1\); \(examples,\) is expected: targets\[\.\.\., 0\]"),
    "a column of strings": (softmax, NAMES[CLASS][:, None], ValueError, r"labels of shape \(24, 1\)"),
    "None": (softmax, [None, *NAMES[CLASS[1:]]], ValueError, r"1 of the 24 labels are missing, the first at 0"),
    "NaN": (softmax, ["ash", np.nan, *NAMES[CLASS[2:]]], ValueError, r"1 of the 24 labels are missing, the first at 1"),
    "mixed": (softmax, ["ash", 1, *NAMES[CLASS[2:]]], TypeError, r"several kinds: .*1 \(int\).*all as strings"),
    "bytes": (softmax, NAMES[CLASS].astype("S"), TypeError, r"bytes, .*np.char.decode"),
    "masked": (softmax, np.ma.masked_array(CLASS), TypeError, "masked"),
    "dates": (softmax, np.array(["2020-01-01"] * 24, "M8[D]"), TypeError, "numbers are expected"),
    "huge": (softmax, np.full(24, 2**64 - 1, np.uint64), ValueError, "int64"),
    "too short": (softmax, CLASS[1:], ValueError, "24 inputs but 23 targets"),
    "none": (softmax, [], ValueError, r"shape \(0,\)"),
    "many": (softmax, np.arange(24), ValueError, r"0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. \(24 in all\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit_are_refused_before_any_work(name):
    make, labels, error, message = WRONG[name]
    net = make()
    before = net.W.copy()
    with pytest.raises(error, match=message):
        train(net, X, labels)
    np.testing.assert_array_equal(net.W, before)
    assert net.classes is None


def test_labels_of_sequences_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="5 timesteps, the targets 4"):
        train(recurrent(), SEQUENCES, STEPS[:, 1:])
    with pytest.raises(ValueError, match="8 inputs but 7 targets"):
        train(recurrent(), SEQUENCES, STEPS[1:, -1])
    with pytest.raises(ValueError, match=r"float64 of shape \(8, 5\)"):
        train(recurrent(), SEQUENCES, STEPS.astype(float))


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["a", "b"], ValueError, "lists 2 labels, 'a', 'b'; the output layer, Softmax with 3 units, has 3"),
        (["a", "b", "a"], ValueError, "lists a label twice"),
        ([0.5, 1.5, 2.5], ValueError, "float64"),
        (3, TypeError, "a list of whole numbers, booleans or strings"),
        ([["a"], ["b"], ["c"]], TypeError, "a list of whole numbers"),
    ],
)
def test_classes_that_make_no_sense(classes, error, message):
    with pytest.raises(error, match=message):
        softmax().classes = classes


def test_classes_of_outputs_that_take_none():
    with pytest.raises(ValueError, match="Linear with 1 unit"):
        hf.FFNet([2, 4, 1], layers="Linear").classes = [0, 1]


def test_numbers_are_targets_as_before():
    x, t = [[0, 0], [1, 1]], [[0], [1]]
    for targets in (t, np.array(t, bool), np.array(t, float)):
        assert read(targets, OutputLayer(hf.nl.Logistic(), 1, False), 2, None, np.float32).labels is None
    net = hf.FFNet([2, 4, 1], rng=0)
    assert net.error(inputs=x, targets=t) == net.error(inputs=x, targets=np.array(t, float))


# ---- predictions and scores ----------------------------------------------------------------------------------------------


def test_without_classes_predictions_are_the_outputs():
    net = softmax()
    np.testing.assert_allclose(net.predict(X), net.forward(X)[-1], rtol=1e-6)
    np.testing.assert_allclose(net.predict_proba(X), net.forward(X)[-1], rtol=1e-6)
    several = hf.FFNet([2, 4, 3], rng=0)
    np.testing.assert_allclose(several.predict_proba(X), several.forward(X)[-1], rtol=1e-6)
    with pytest.raises(TypeError, match="The output layer is Tanh with 3 units; probabilities come from Softmax"):
        hf.FFNet([2, 4, 3], layers="Tanh").predict_proba(X)


def test_predictions_with_layers_in_numpy_or_with_state():
    class Cube(hf.nl.Nonlinearity):
        def activation(self, x):
            return np.asarray(x) ** 3

        def d_activation(self, x, a):
            return 3 * np.asarray(x) ** 2

    net = softmax(layers=["Linear", Cube(), "Softmax"])
    np.testing.assert_allclose(net.predict(X), net.forward(X)[-1], rtol=1e-6)
    leaky = hf.nl.Continuous(hf.nl.Tanh(), tau=5.0)
    net = recurrent(layers=["Linear", leaky, hf.nl.Continuous(hf.nl.Softmax(), tau=2.0)])
    train(net, SEQUENCES, STEPS, epochs=1)
    before = leaky.state
    np.testing.assert_array_equal(net.predict(SEQUENCES), net.forward(SEQUENCES)[-1].argmax(axis=-1))
    assert before is None or np.array_equal(before, leaky.state)


def test_activations_that_are_not_finite_are_told_of():
    net = hf.FFNet([2, 4, 1], layers=["Linear", "ReLU", "Linear"])
    net.W[:] = 1e38
    with pytest.raises(OverflowError, match="Layer"), np.errstate(over="ignore", invalid="ignore"):
        net.predict(X + 10)


def r2(o, t, w):
    """The formula, output by output."""
    found = []
    for j in range(t.shape[1]):
        known = ~np.isnan(t[:, j])
        weights = w * known
        target = np.where(known, t[:, j], 0)
        mean = np.average(target, weights=weights)
        found.append(1 - np.average((target - o[:, j]) ** 2, weights=weights) / np.average((target - mean) ** 2, weights=weights))  # fmt: skip
    return np.mean(found)


def test_the_score_of_numbers_is_r_squared():
    net = hf.FFNet([2, 4, 3], layers="Tanh", rng=0)
    t = RNG.uniform(-1, 1, (24, 3))
    t[5, 1] = np.nan
    weights = RNG.uniform(0, 1, 24)
    outputs = net.forward(X)[-1].astype(float)
    assert net.score(X, t) == pytest.approx(r2(outputs, t, np.ones(24)), rel=1e-5)
    assert net.score(X, t, weights) == pytest.approx(r2(outputs, t, weights), rel=1e-4)
    assert net.score(X, net.forward(X)[-1]) == pytest.approx(1)
    net = hf.FFNet([2, 4, 3], layers="Linear", rng=0)
    net.W[:] = 0
    assert net.score(X, np.zeros((24, 3))) == 1
    assert net.score(X, np.ones((24, 3))) == 0
    with pytest.raises(TypeError, match="score compares"):
        recurrent().score(_Plant(), None)


class _Plant(hf.nl.Plant):
    shape = (4, 5, 1)
    targets = np.full((4, 5, 3), 1 / 3)

    def initial_state(self, batch):
        return np.zeros((batch, 1), np.float32)

    def step(self, state, x):
        return state, state
