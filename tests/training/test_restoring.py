"""At the end of a run with test data the best parameters count; a run that goes on from a checkpoint has the last."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import hessianfree as hf

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
ZEROS = np.zeros((4, 1), np.float32)


class Path(hf.opt.Optimizer):
    """Moves all weights to given numbers, one after another."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = list(numbers)

    def compute_update(self, printing=False):
        return self.numbers.pop(0) - self.net.W

    def get_state(self):
        return np.array(float(len(self.numbers)))

    def set_state(self, state):
        self.numbers = self.numbers[len(self.numbers) - int(state) :]


def net():
    made = hf.FFNet([2, 1], layers="Linear", rng=0)
    made.W[:] = 0.5
    return made


def run(numbers=(0.4, 0.1, 0.2, 0.3), made=None, **options):
    options = {"test": (X, ZEROS), "max_epochs": 4, "target_err": -np.inf, "print_period": None, **options}
    made = made or net()
    return made, made.run_epochs(X, ZEROS, Path(numbers), **options)


def whole(value):
    return np.full(3, value, np.float32)


def test_the_best_weights_are_in_w():
    made, result = run()
    for W in (made.W, made.best_W, result.params, result.best_params):
        np.testing.assert_allclose(W, whole(0.1), rtol=1e-6)
    np.testing.assert_allclose(result.last_params, whole(0.3), rtol=1e-6)
    assert made.best_error == result.best_error == made.error(None, X, ZEROS)
    assert result.best_epoch.number == 1


@pytest.mark.parametrize("options", [{"restore_best": False}, {"test": None}])
def test_the_last_weights_stay_without_test_data_or_if_asked(options):
    made, result = run(**options)
    for W in (made.W, result.params, result.last_params):
        np.testing.assert_allclose(W, whole(0.3), rtol=1e-6)
    np.testing.assert_allclose(made.best_W, whole(0.1), rtol=1e-6)


def test_views_of_the_weights_stay_views():
    made = net()
    view = made.get_weights(made.W, (0, 1))[0]
    run(made=made)
    np.testing.assert_allclose(view, 0.1, rtol=1e-6)


def test_the_last_weights_stay_where_no_error_is_a_number():
    class NotANumber(hf.loss_funcs.LossFunction):
        @hf.loss_funcs.output_loss
        def loss(self, o, t):
            return jnp.nan * o

    made, result = run(test_err=NotANumber())
    np.testing.assert_allclose(made.W, whole(0.3), rtol=1e-6)
    assert result.best_epoch is None


@pytest.mark.parametrize("restore", [True, False])
def test_files_hold_what_the_network_holds(restore, tmp_path):
    made, _ = run(file_output=str(tmp_path / "f"), restore_best=restore)
    np.testing.assert_array_equal(np.load(tmp_path / "f_weights.npy"), made.W)
    np.testing.assert_allclose(made.W, whole(0.1 if restore else 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "options", "line"),
    [
        ((0.4, 0.1, 0.2), {}, "net.W holds the weights of epoch 1 (test error 0.0225); the last ones are in result.last_params"),
        ((0.4, 0.2, 0.1), {}, "net.W holds the weights of epoch 2 (test error 0.0225), the last one"),
        ((0.4, 0.1, 0.2), {"restore_best": False}, "net.W holds the last weights, net.best_W those of epoch 1 (test error 0.0225)"),
        ((0.4, 0.1, 0.2), {"test": None}, "finished after 3 epochs: all 3 epochs are done"),
    ],
)  # fmt: skip
def test_the_last_line_says_which_weights_are_where(numbers, options, line, capsys):
    run(numbers, max_epochs=3, print_period=1, **options)
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_resumed_runs_go_on_with_the_last_weights(tmp_path):
    numbers, path = (0.4, 0.1, 0.2, 0.3, 0.25), tmp_path / "run.ckpt"
    made = net()
    _, cut = run(numbers, made, max_epochs=3, checkpoint=path)
    np.testing.assert_allclose(made.W, whole(0.1), rtol=1e-6)  # of the run so far
    _, found = run(numbers, made, max_epochs=5, checkpoint=path, resume=True)
    _, expected = run(numbers, max_epochs=5)
    for name in ("params", "best_params", "last_params"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.test_errors == expected.test_errors
    np.testing.assert_allclose(cut.last_params, whole(0.2), rtol=1e-6)
    again, _ = run(numbers, max_epochs=5, checkpoint=path, resume=True)  # it had ended
    np.testing.assert_array_equal(again.W, made.W)


def test_callbacks_see_them_at_the_end():
    class Look:
        def on_start(self, run):
            self.run = run

        def on_epoch(self, epoch):
            self.last = self.run.params.copy()

        def on_end(self, result):
            self.end = self.run.params.copy()

    look = Look()
    run(callbacks=[look])
    np.testing.assert_allclose(look.last, whole(0.3), rtol=1e-6)
    np.testing.assert_allclose(look.end, whole(0.1), rtol=1e-6)


def test_an_average_may_be_the_best():
    x = np.random.RandomState(1).randn(30, 2).astype(np.float32)
    t = np.sin(x[:, :1])
    made = hf.FFNet([2, 5, 1], layers=["Linear", "Tanh", "Linear"], rng=0)
    optimizer = hf.opt.HessianFree(CG_iter=3, averaging=0.5)
    result = made.run_epochs(x, t, optimizer, 4, 10, test=(x, t), print_period=None)
    assert made.error(None, x, t) == result.best_error == made.best_error
    assert not np.array_equal(result.params, result.last_params)
    # The optimizer begins afresh at the weights that were restored, with its damping.
    damping = optimizer.damping
    made.cache_minibatch(x, t)
    optimizer.compute_update()
    assert optimizer.record.damping == damping


def test_results_in_files_hold_both(tmp_path):
    for options, same in (({}, False), ({"restore_best": False}, True)):
        _, result = run(**options)
        result.save(tmp_path / "r")
        found = hf.load(tmp_path / "r")
        for name in ("params", "best_params", "last_params"):
            np.testing.assert_array_equal(getattr(found, name), getattr(result, name))
        assert (found.last_params is found.params) == same


# ---- fit -----------------------------------------------------------------------------------------------------------------


class Steps:
    """An optimizer of the user's own, whose parameters take given values."""

    def init(self, params):
        return 0

    def step(self, objective, params, state, batch):
        new = {"a": np.full(1, (0.4, 0.1, 0.2)[state % 3], np.float32)}
        return new, state + 1, type("Made", (), {"value": 0.0, "accepted": True})()


def of_fit(**options):
    objective = hf.Objective(lambda p, x: x * p["a"])
    data = X[:, 0], np.zeros(4, np.float32)
    options = {"max_epochs": 3, "target_err": -np.inf, "print_period": None, "test": data, **options}
    return hf.fit(objective, {"a": np.ones(1, np.float32)}, data, Steps(), **options)


def test_fit_returns_and_writes_the_best_parameters(tmp_path, capsys):
    result = of_fit(file_output=str(tmp_path / "f"), print_period=5)
    np.testing.assert_allclose([result.params["a"], result.last_params["a"]], [[0.1], [0.2]], rtol=1e-6)
    np.testing.assert_array_equal(load_file(tmp_path / "f_params.safetensors")["['a']"], result.params["a"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "result.params holds the parameters of epoch 1 (test error 0.0025); the last ones are in result.last_params"
    )


@pytest.mark.parametrize("options", [{"restore_best": False}, {"test": None}])
def test_fit_returns_the_last_parameters_without_test_data_or_if_asked(options):
    result = of_fit(**options)
    np.testing.assert_allclose(result.params["a"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(result.best_params["a"], [0.1], rtol=1e-6)


@pytest.mark.parametrize("door", [run, of_fit])
def test_it_is_true_or_false(door):
    with pytest.raises(TypeError, match="restore_best is 'yes'; True or False"):
        door(restore_best="yes")
