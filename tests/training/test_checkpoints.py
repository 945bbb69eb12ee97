"""Runs that are interrupted and resumed end as the run that was not, bit for bit."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.io import checkpoints as files
from hessianfree.io.archives import Archive, write_archive
from hessianfree.io.locks import InUseError, Lock
from hessianfree.io.trees import pack, unpack
from hessianfree.training.checkpoints import OtherRunError
from hessianfree.training.identity import of_data
from hessianfree.training.records import pack_epochs, unpack_epochs
from hessianfree.training.results import Epoch
from hessianfree.training.writing import Writer

RNG = np.random.RandomState(0)
X = RNG.uniform(-1, 1, (20, 2)).astype(np.float32)
T = np.sin(3 * X[:, :1])
SIGNALS = RNG.uniform(-1, 1, (6, 5, 1)).astype(np.float32)
OPTIMIZERS = {
    "plain": lambda: hf.opt.HessianFree(CG_iter=4),
    "kfac": lambda: hf.opt.HessianFree(CG_iter=4, preconditioner=hf.opt.KFAC(every=3), averaging=0.5),
    "nystrom": lambda: hf.opt.HessianFree(CG_iter=4, preconditioner=hf.opt.Nystrom(rank=3, every=2), curvature_batch=0.5),
    "diagonal": lambda: hf.opt.HessianFree(CG_iter=4, preconditioner="diagonal", weight_decay=1e-3),
    "sgd": lambda: hf.opt.SGD(0.1),
    "adam": lambda: hf.opt.FirstOrder(optax.adam(0.01)),
    "auto": lambda: hf.opt.Auto(batch_size=4),
}  # fmt: skip


class InterruptAfter:
    """Presses Ctrl-C after some updates of this process."""

    def __init__(self, updates, number=signal.SIGINT):
        self.left, self.number = updates, number

    def on_update(self, epoch_number, update, updates, record):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def network(optimizer, **options):
    net = hf.FFNet([2, 4, 1], layers=["Linear", "Tanh", "Linear"], rng=3)
    return net.run_epochs(X, T, optimizer, 8, print_period=None, test=(X[:5], T[:5]), **options)


def in_minibatches(optimizer, **options):
    return network(optimizer, minibatch_size=8, **options)


def recurrent(optimizer, **options):
    net = hf.RNNet([1, 3, 1], layers="Tanh", rng=np.random.default_rng(4))
    return net.run_epochs(SIGNALS, np.cumsum(SIGNALS, axis=1), optimizer, 8, 4, print_period=None, **options)


def model(params, x):
    return jnp.tanh(x @ params["W"] + params["b"]) @ params["V"]


def start():
    return {"W": np.full((2, 3), 0.3, np.float32), "b": np.zeros(3, np.float32), "V": np.ones((3, 1), np.float32)}


def of_fit(optimizer, data=(X, T), minibatch_size=8, **options):
    return hf.fit(hf.Objective(model), start(), data, optimizer, max_epochs=8, minibatch_size=minibatch_size, print_period=None, **options)  # fmt: skip


def of_fit_double(optimizer, **options):
    params = {name: leaf.astype(float) for name, leaf in start().items()}
    return hf.fit(hf.Objective(model), params, (X, T), optimizer, max_epochs=8, minibatch_size=8, print_period=None, **options)  # fmt: skip


def residual(params, point):
    return params["a"] * jnp.exp(-params["k"] * point["x"]) + params["c"] - point["y"]


def of_least_squares(optimizer=None, max_steps=100, **options):
    x = np.linspace(0, 3, 15)
    points = {"x": x, "y": 2 * np.exp(-1.5 * x) + 0.1 * np.cos(9 * x)}
    begin = {"a": np.float64(50), "k": np.float64(9), "c": np.float64(-7)}
    return hf.least_squares([(residual, points)], begin, max_steps=max_steps, **options)


def same(found, expected):
    """Parameters, errors, reason and records are equal, but for the seconds."""
    for one, other in ((found.params, expected.params), (found.best_params, expected.best_params)):
        for name in one if isinstance(one, dict) else [...]:
            np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))
            assert one[name].dtype == other[name].dtype
    assert found.test_errors == expected.test_errors
    assert (found.reason, found.best_error) == (expected.reason, expected.best_error)
    ours, theirs = found.history, expected.history
    assert set(ours) == set(theirs)
    for name in set(ours) - {"seconds", "reason", "line"}:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert (np.diff(ours["seconds"]) > 0).all()


RUNS = [
    *[(in_minibatches, name) for name in OPTIMIZERS],
    *[(network, "kfac"), (recurrent, "kfac"), (recurrent, "adam"), (recurrent, "auto")],
    *[(of_fit, name) for name in ("plain", "diagonal", "nystrom", "adam", "auto")],
    *[(of_fit_double, "nystrom"), (of_fit_double, "adam"), (of_least_squares, "plain")],
]


@pytest.mark.few(6)
@pytest.mark.parametrize(("run", "name"), RUNS)
def test_the_rest_is_that_of_the_run_in_one_piece(run, name, tmp_path):
    """Interrupted at an update within an epoch, and again at the end of one."""
    expected, path = run(OPTIMIZERS[name]()), tmp_path / "run.ckpt"
    for updates in (1, 2, 3):
        cut = run(OPTIMIZERS[name](), checkpoint=path, resume=True, callbacks=[InterruptAfter(updates)])
        assert cut.reason.startswith("interrupted")
        assert os.listdir(tmp_path) in (["run.ckpt", "run.ckpt.previous"], ["run.ckpt.previous", "run.ckpt"])
    same(run(OPTIMIZERS[name](), checkpoint=path, resume=True), expected)
    again = run(OPTIMIZERS[name](), checkpoint=path, resume=True, callbacks=[InterruptAfter(1)])
    same(again, expected)  # it had ended: no update was made


def test_a_limit_of_time_or_epochs_is_no_end(tmp_path):
    expected, path = in_minibatches(OPTIMIZERS["plain"]()), tmp_path / "run.ckpt"
    assert in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, max_seconds=1e-9).reason.endswith("are over")
    net = hf.FFNet([2, 4, 1], layers=["Linear", "Tanh", "Linear"], rng=3)
    test = (X[:5], T[:5])
    options = {"minibatch_size": 8, "print_period": None, "test": test, "checkpoint": path, "resume": True}
    net.run_epochs(X, T, OPTIMIZERS["plain"](), 3, **options)
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, resume=True), expected)


def test_plots_go_on(tmp_path):
    path, whole, cut = tmp_path / "run.ckpt", OPTIMIZERS["plain"](), OPTIMIZERS["plain"]()
    in_minibatches(whole)
    in_minibatches(cut, checkpoint=path, callbacks=[InterruptAfter(7)])
    resumed = OPTIMIZERS["plain"]()
    in_minibatches(resumed, checkpoint=path, resume=True)
    assert resumed.plots == whole.plots
    assert len(resumed.plots["test error (log)"]) == 8


# ---- data that come by themselves ----------------------------------------------------------------------------------------


class Noisy(hf.nl.Plant):
    """A plant of the user's own, with a source of random numbers, memory, and something that no file can hold."""

    def __init__(self):
        self.shape, self.rng, self.calls = [6, 5, 1], np.random.RandomState(1), 0
        self.reset()

    def __call__(self, x):
        self.calls += 1
        self.inputs.append(np.zeros((self.shape[0], 1), np.float32) + self.level + 0.1 * x)
        return self.inputs[-1]

    def get_vecs(self):
        inputs = np.stack(self.inputs, axis=1)
        return inputs, np.cumsum(inputs, axis=1)

    def reset(self, init=None):
        self.inputs, self.level = [], self.rng.rand(self.shape[0], 1).astype(np.float32)


@pytest.mark.parametrize("minibatch", [None, 3])
def test_plants_go_on_in_their_random_state(minibatch, tmp_path):
    def run(**options):
        net = hf.RNNet([1, 3, 1], layers="Tanh", rng=4)
        options = {"minibatch_size": minibatch, "max_epochs": 4, "print_period": None, **options}
        return net.run_epochs(Noisy(), None, OPTIMIZERS["plain"](), **options)

    expected, path = run(), tmp_path / "run.ckpt"
    for updates in (1, 2):
        run(checkpoint=path, resume=True, callbacks=[InterruptAfter(updates)])
    same(run(checkpoint=path, resume=True), expected)


class Late(hf.nl.Nonlinearity):
    """A layer that makes its random source when it is first used, and holds something that no file can hold."""

    def activation(self, x):
        if not hasattr(self, "rng"):
            self.rng, self.held = np.random.default_rng(3), object()
        return np.tanh(x) + 0.01 * self.rng.random()

    def d_activation(self, x, a):
        return 1 - np.tanh(x) ** 2


@dataclass(frozen=True)
class Frozen(hf.loss_funcs.LossFunction):
    weight: float = 2.0

    def loss(self, activities, targets):
        return [None, None, self.weight * ((activities[-1] - targets) ** 2).sum(axis=-1)]

    def d_loss(self, activities, targets):
        return [None, None, 2 * self.weight * (activities[-1] - targets)]

    def d2_loss(self, activities, targets):
        return [None, None, 2 * self.weight * np.ones_like(activities[-1])]


def test_parts_of_the_users_own_that_begin_late_or_are_frozen(tmp_path, caplog):
    def run(**options):
        net = hf.FFNet([2, 4, 1], layers=["Linear", Late(), "Linear"], loss_type=Frozen(), rng=3)
        return net.run_epochs(X, T, OPTIMIZERS["sgd"](), 4, 8, print_period=None, **options)

    expected, path = run(), tmp_path / "run.ckpt"
    run(checkpoint=path, checkpoint_every=1, callbacks=[InterruptAfter(5)])
    assert caplog.text.count("layer 1.held is a object, which a checkpoint does not hold") == 1
    same(run(checkpoint=path, resume=True), expected)


class Loader:
    """Batches in another order in each epoch, with a position that can be told, as torchdata's loaders have it."""

    def __init__(self):
        self.epoch, self.done, self.resumed = 0, 0, False

    def __iter__(self):
        if not self.resumed:
            self.done = 0
        self.resumed = False
        order = np.random.default_rng(self.epoch).permutation(5)
        while self.done < 5:
            chosen = slice(4 * order[self.done], 4 * order[self.done] + 4)
            self.done += 1
            yield X[chosen], T[chosen]
        self.epoch, self.done = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state):
        self.epoch, self.done, self.resumed = state["epoch"], state["done"], True


class Eager:
    """A loader whose order is drawn by iter(loader), from the state loaded before, as torchdata's do it."""

    def __init__(self):
        self.rng, self.state, self.order = np.random.RandomState(1), None, None

    def __iter__(self):
        state, self.state = self.state, None
        if state is not None:
            self.rng.set_state(state["random"])
        self.random = self.rng.get_state()
        self.order, self.done = self.rng.permutation(5), state["done"] if state else 0
        if state is not None and state["finished"]:
            return iter(self)
        return self._rest()

    def _rest(self):
        self.finished = False
        while self.done < 5:
            self.done += 1
            yield BATCHES[self.order[self.done - 1]]
        self.finished = True

    def state_dict(self):
        if self.order is None:
            return {"random": self.rng.get_state(), "done": 0, "finished": False}
        return {"random": self.random, "done": self.done, "finished": self.finished}

    def load_state_dict(self, state):
        self.state = state


class Walk:
    """An iterator with a position, as grain's have it."""

    def __init__(self):
        self.done = 0

    def __next__(self):
        if self.done == 5:
            raise StopIteration
        self.done += 1
        return X[4 * self.done - 4 : 4 * self.done], T[4 * self.done - 4 : 4 * self.done]

    def __iter__(self):
        return self

    def get_state(self):
        return str(self.done).encode()

    def set_state(self, state):
        self.done = int(state)


class Walks:
    def __iter__(self):
        return Walk()


BATCHES = [(X[place : place + 4], T[place : place + 4]) for place in range(0, 20, 4)]


@pytest.mark.parametrize("data", [lambda: BATCHES, Loader, Eager, Walks])
def test_iterables_whose_position_is_known_go_on_within_an_epoch(data, tmp_path):
    expected, path = of_fit(OPTIMIZERS["plain"](), data(), None), tmp_path / "run.ckpt"
    for updates in (2, 6):
        of_fit(OPTIMIZERS["plain"](), data(), None, checkpoint=path, resume=True, callbacks=[InterruptAfter(updates)])
    same(of_fit(OPTIMIZERS["plain"](), data(), None, checkpoint=path, resume=True), expected)


def test_other_iterables_say_so_and_begin_with_the_next_epoch(tmp_path, caplog):
    class Unknown:
        def __iter__(self):
            return iter(BATCHES)

    path = tmp_path / "run.ckpt"
    of_fit(OPTIMIZERS["plain"](), Unknown(), None, checkpoint=path, callbacks=[InterruptAfter(7)])
    assert "whose position within an epoch is not known" in caplog.text
    result = of_fit(OPTIMIZERS["plain"](), Unknown(), None, checkpoint=path, resume=True)
    assert [len(epoch.updates) for epoch in result.epochs] == [5, 2, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize("data", [lambda: BATCHES, Loader, Eager, Walks])
def test_iterables_go_on_after_whole_epochs_and_elsewhere(data, tmp_path):
    def run(epochs, **options):
        options = {"max_epochs": epochs, "print_period": None, **options}
        return hf.fit(hf.Objective(model), start(), data(), hf.opt.SGD(0.1), **options)

    expected, path, second = run(6), tmp_path / "run.ckpt", tmp_path / "second.ckpt"
    run(2, checkpoint=path)
    run(6, checkpoint=path, resume=True, callbacks=[InterruptAfter(3)])
    run(0, checkpoint=path, resume=True)  # nothing is taken: the position stays
    run(0, checkpoint=second, resume=path)
    same(run(6, checkpoint=second, resume=True), expected)


# ---- when they are written -----------------------------------------------------------------------------------------------


def test_they_are_written_as_the_run_goes_on(tmp_path):
    path, seen = tmp_path / "run.ckpt", []

    class Look:
        def on_epoch(self, epoch):
            for thread in threading.enumerate():
                if thread.name == "hessianfree-checkpoints":
                    thread.join()
            seen.append(files.read(path).description["updates"])

    in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, checkpoint_every=2, checkpoint_seconds=None, callbacks=[Look()])  # fmt: skip
    assert seen == [2, 6, 8, 12, 14, 18, 20, 24]
    assert files.read(path).description["updates"] == 24
    assert threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hessianfree")]


def test_a_run_can_go_on_elsewhere(tmp_path):
    expected, first, second = in_minibatches(OPTIMIZERS["plain"]()), tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    in_minibatches(OPTIMIZERS["plain"](), checkpoint=first, callbacks=[InterruptAfter(4)])
    before = first.read_bytes()
    same(in_minibatches(OPTIMIZERS["plain"](), resume=first), expected)
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=second, resume=first), expected)
    assert first.read_bytes() == before
    assert files.read(second).description["reason"] == ""


def test_sigterm_ends_the_process_with_a_checkpoint(tmp_path):
    expected, path = in_minibatches(OPTIMIZERS["plain"]()), tmp_path / "run.ckpt"
    with pytest.raises(SystemExit) as ended:
        in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, callbacks=[InterruptAfter(4, signal.SIGTERM)])
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, resume=True), expected)


def test_ctrl_c_after_sigterm_does_not_keep_the_process(tmp_path):
    class Both:
        def on_update(self, epoch_number, update, updates, record):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):
        in_minibatches(OPTIMIZERS["sgd"](), checkpoint=tmp_path / "run.ckpt", callbacks=[Both()])


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path):
    """The path of a checkpoint from the middle of a run."""
    path = tmp_path / "run.ckpt"
    in_minibatches(OPTIMIZERS["plain"](), checkpoint=path, checkpoint_every=1, callbacks=[InterruptAfter(5)])
    return path


def test_an_older_checkpoint_is_not_overwritten_unasked(interrupted):
    before = interrupted.read_bytes()
    with pytest.raises(FileExistsError, match="pass resume=True to go on"):
        in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted)
    assert interrupted.read_bytes() == before


def other_network(
    optimizer, shape=(2, 5, 1), layers=("Linear", "Tanh", "Linear"), x=X, t=T, size=8, mask=None, **options
):
    net = hf.FFNet(list(shape), layers=list(layers), rng=3)
    net.mask = mask
    return net.run_epochs(x, t, optimizer, 8, size, print_period=None, test=(X[:5], T[:5]), **options)


OTHERS = [
    ({"shape": (2, 5, 1)}, "plain", r"Its network: FFNet\(\[2, 4, 1\]\), float32; given: FFNet\(\[2, 5, 1\]\)"),
    ({"layers": ("Linear", "Logistic", "Linear")}, "plain", "Its layers: .*Tanh.*given: .*Logistic"),
    ({"x": X + 1}, "plain", "Its examples: .*sample"),
    ({"x": X[1:], "t": T[1:]}, "plain", r"Its examples: .*\(20, 2\).*given: .*\(19, 2\)"),
    ({"size": 5}, "plain", "Its minibatch size: 8; given: 5"),
    ({"mask": np.s_[:2]}, "plain", "Its mask: none; given:  ?bool"),
    ({}, "sgd", r"Its optimizer: HessianFree\(.*given: SGD\(.*l_rate=0.1\)"),
    ({}, "kfac", r"Its optimizer: .*preconditioner=None.*given: .*preconditioner=KFAC\(every=3"),
]


@pytest.mark.parametrize(("changes", "name", "message"), OTHERS)
def test_the_checkpoint_of_another_run_is_refused(changes, name, message, interrupted):
    before = interrupted.read_bytes()
    with pytest.raises(OtherRunError, match=message):
        other_network(OPTIMIZERS[name](), **{"shape": (2, 4, 1), **changes}, checkpoint=interrupted, resume=True)
    assert interrupted.read_bytes() == before


def with_truncation(truncation=None, test_err=None, **options):
    net = hf.RNNet([1, 3, 1], layers="Tanh", rng=4, truncation=truncation)
    return net.run_epochs(SIGNALS, np.cumsum(SIGNALS, axis=1), hf.opt.SGD(0.01), 4, 3, test_err=test_err, print_period=None, **options)  # fmt: skip


def with_points(every, **options):
    points = lambda step: [{"x": np.random.default_rng(step).random(15), "y": np.ones(15)}]
    begin = {"a": np.float64(50), "k": np.float64(9), "c": np.float64(-7)}
    return hf.least_squares([(residual, points(0)[0])], begin, max_steps=6, resample=points, resample_every=every, **options)  # fmt: skip


@pytest.mark.parametrize(
    ("run", "one", "other", "message"),
    [
        (with_truncation, {"truncation": (2, 3)}, {"truncation": (2, 4)}, "Its truncation"),
        (with_truncation, {}, {"test_err": hf.loss_funcs.SquaredError()}, "Its test loss"),
        (with_points, {"every": 2}, {"every": 3}, "Its points"),
    ],
)
def test_other_settings_are_refused(run, one, other, message, tmp_path):
    run(**one, checkpoint=tmp_path / "run.ckpt", callbacks=[InterruptAfter(2)])
    with pytest.raises(OtherRunError, match=message):
        run(**other, checkpoint=tmp_path / "run.ckpt", resume=True)


PLACES = [
    (lambda folder: {"checkpoint": folder}, IsADirectoryError, "a folder; give a file in it"),
    (lambda folder: {"checkpoint": folder / "no" / "run.ckpt"}, FileNotFoundError, "make it first"),
    (lambda folder: {"checkpoint": 3}, TypeError, "the path of a file is expected"),
    (lambda folder: {"resume": True}, ValueError, "pass checkpoint='run.ckpt'"),
    (lambda folder: {"resume": folder / "run.ckpt"}, FileNotFoundError, "there is no checkpoint"),
    (lambda folder: {"checkpoint": folder / "run.ckpt", "checkpoint_every": 0}, ValueError, "checkpoint_every"),
    (lambda folder: {"checkpoint": folder / "run.ckpt", "checkpoint_seconds": -1}, ValueError, "checkpoint_seconds"),
]


@pytest.mark.parametrize(("options", "kind", "message"), PLACES)
@pytest.mark.parametrize("run", [in_minibatches, of_fit, of_least_squares])
def test_arguments_that_make_no_sense(run, options, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        run(OPTIMIZERS["sgd"](), **options(tmp_path))
    assert os.listdir(tmp_path) == []


def test_an_optimizer_of_the_users_own_says_what_it_keeps(tmp_path):
    class Own(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return -0.1 * self.net.calc_grad()

    class Momentum(Own):
        def __init__(self):
            super().__init__()
            self.velocity = None

        def compute_update(self, printing=False):
            before = 0 if self.velocity is None else self.velocity
            self.velocity = 0.9 * before - 0.1 * self.net.calc_grad()
            return self.velocity

        def get_state(self):
            return np.zeros_like(self.net.W) if self.velocity is None else self.velocity

        def set_state(self, state):
            self.velocity = state

    with pytest.raises(TypeError, match=r"Define get_state\(\)"):
        network(Own(), checkpoint=tmp_path / "own.ckpt")
    expected, path = network(Momentum()), tmp_path / "run.ckpt"
    network(Momentum(), checkpoint=path, callbacks=[InterruptAfter(3)])
    same(network(Momentum(), checkpoint=path, resume=True), expected)


def test_an_optimizer_that_changes_its_state_in_place(tmp_path, monkeypatch):
    class InPlace(hf.opt.Optimizer):
        velocity = None

        def compute_update(self, printing=False):
            self.get_state()
            self.velocity *= 0.9
            self.velocity -= 0.1 * self.net.calc_grad()
            return self.velocity.copy()

        def get_state(self):
            if self.velocity is None:
                self.velocity = np.zeros_like(self.net.W)
            return self.velocity

        def set_state(self, state):
            self.velocity = state

    late = []
    monkeypatch.setattr(
        Writer, "write_soon", lambda writer, packed: late.append((packed()[0]["state.0"].copy(), packed))
    )
    in_minibatches(InPlace(), checkpoint=tmp_path / "run.ckpt", checkpoint_every=1)
    for then, packed in late:
        np.testing.assert_array_equal(packed()[0]["state.0"], then)
    assert len(late) == 24


def test_random_keys_in_a_state(tmp_path):
    noisy = lambda: hf.opt.FirstOrder(optax.chain(optax.sgd(0.1), optax.add_noise(0.1, 0.5, 3)))
    expected, path = of_fit(noisy()), tmp_path / "run.ckpt"
    of_fit(noisy(), checkpoint=path, callbacks=[InterruptAfter(4)])
    same(of_fit(noisy(), checkpoint=path, resume=True), expected)


def test_a_preconditioner_of_the_users_own_says_what_it_measures(tmp_path):
    class Sizes(hf.opt.Diagonal):
        blank = None

    class Zeros(hf.opt.Diagonal):
        pass

    run = lambda kind, **options: network(hf.opt.HessianFree(CG_iter=3, preconditioner=kind()), **options)
    for fitted in (network, of_fit):
        with pytest.raises(TypeError, match=r"define Sizes\.blank\(params, model\)"):
            fitted(hf.opt.HessianFree(preconditioner=Sizes()), checkpoint=tmp_path / "own.ckpt")
    expected, path = run(Zeros), tmp_path / "run.ckpt"
    run(Zeros, checkpoint=path, callbacks=[InterruptAfter(3)])
    same(run(Zeros, checkpoint=path, resume=True), expected)


def test_two_runs_on_one_path(tmp_path):
    path = tmp_path / "run.ckpt"

    class Second:
        def on_epoch(self, epoch):
            with pytest.raises(InUseError, match=rf"in use by another run \(process {os.getpid()}\)"):
                in_minibatches(OPTIMIZERS["sgd"](), checkpoint=path, resume=True)
            return True

    assert (
        in_minibatches(OPTIMIZERS["sgd"](), checkpoint=path, callbacks=[Second()]).reason == "a callback ended the run"
    )
    with Lock(path):
        pass


def test_the_sample_of_data_is_from_all_columns():
    zeros = np.zeros((6000, 8), np.float32)
    for column in range(8):
        other = zeros.copy()
        other[:, column] = 1
        assert of_data(other) != of_data(zeros)


def test_a_symbolic_link_is_the_file_it_leads_to(tmp_path):
    link, folder = tmp_path / "link.ckpt", tmp_path / "folder"
    folder.mkdir()
    link.symlink_to(folder / "run.ckpt")

    class Second:
        def on_epoch(self, epoch):
            with pytest.raises(InUseError):
                in_minibatches(OPTIMIZERS["sgd"](), checkpoint=folder / "run.ckpt", resume=True)

    in_minibatches(OPTIMIZERS["sgd"](), checkpoint=link, callbacks=[Second()])
    assert sorted(os.listdir(folder)) == ["run.ckpt", "run.ckpt.previous"]
    assert sorted(os.listdir(tmp_path)) == ["folder", "link.ckpt"]


def test_a_callback_that_changes_the_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    class Change:
        def on_epoch(self, epoch):
            os.chdir(tmp_path / "other")

    in_minibatches(OPTIMIZERS["sgd"](), checkpoint="run.ckpt", callbacks=[Change()])
    assert os.listdir(tmp_path / "other") == []
    assert sorted(os.listdir(tmp_path)) == ["other", "run.ckpt", "run.ckpt.previous"]


def test_a_name_too_long_for_the_one_before_is_refused_at_once(tmp_path):
    with pytest.raises(OSError, match="too long"):
        in_minibatches(OPTIMIZERS["sgd"](), checkpoint=tmp_path / ("n" * 247))
    assert os.listdir(tmp_path) == []


def test_files_of_others_are_left_alone(tmp_path):
    unfinished, lock = tmp_path / ".run.ckpt.b.0123456789abcdef.tmp", tmp_path / "run.ckpt.lock"
    unfinished.write_bytes(b"half")
    lock.write_text("a text of the user's")
    with pytest.raises(FileExistsError, match="no lock"):
        in_minibatches(OPTIMIZERS["sgd"](), checkpoint=tmp_path / "run.ckpt")
    assert lock.read_text() == "a text of the user's"
    lock.write_text("12345")  # of a run that was killed
    in_minibatches(OPTIMIZERS["sgd"](), checkpoint=tmp_path / "run.ckpt")
    assert sorted(os.listdir(tmp_path)) == [unfinished.name, "run.ckpt", "run.ckpt.previous"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_forked_child_that_leaves_does_not_let_the_path_go(tmp_path):
    path, lock = tmp_path / "run.ckpt", Lock(tmp_path / "run.ckpt")
    with lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(InUseError), Lock(path):
            pass


# ---- files with faults ---------------------------------------------------------------------------------------------------


def cut_short(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def one_bit(content):
    place = len(content) - 9
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def foreign(content):
    return b"a text that somebody put there" * 50


@pytest.mark.parametrize("damage", [cut_short, empty, one_bit, foreign])
def test_the_one_before_serves_where_the_newest_is_damaged(damage, interrupted, caplog):
    expected = in_minibatches(OPTIMIZERS["plain"]())
    interrupted.write_bytes(damage(interrupted.read_bytes()))
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True), expected)
    assert "the run goes on from the checkpoint before" in caplog.text


def test_without_a_whole_checkpoint_nothing_begins(interrupted):
    for path in (interrupted, files.previous(interrupted)):
        path.write_bytes(cut_short(path.read_bytes()))
    with pytest.raises(ValueError, match=r"no header|cut short|does not fit"):
        in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True)


def test_a_newer_version_is_not_passed_over(interrupted):
    newer = files.CHECKPOINT._replace(version=2)
    with open(interrupted, "wb") as file:
        write_archive(file, newer, {}, {})
    with pytest.raises(ValueError, match="a newer release of hessianfree wrote"):
        in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True)


@pytest.mark.few(7)
@pytest.mark.parametrize("part", ["identity", "trees", "notes", "records"])
@pytest.mark.parametrize("value", [None, [], {}, "x", {"tuple": [3]}])
def test_a_whole_archive_with_other_contents_is_refused(part, value, interrupted):
    found = files.read(interrupted)
    for path in (interrupted, files.previous(interrupted)):
        with open(path, "wb") as file:
            write_archive(file, files.CHECKPOINT, found.arrays, {**found.description, part: value})
    with pytest.raises(ValueError, match=r"do not fit together|another run"):
        in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True)


WRONG = [
    {"best_error": "x"},
    {"best_error": None},
    {"rejections": "x"},
    {"batches": None},
    {"batches": {"before": "x", "now": "x"}},
    {"learner": {"epoch": "x", "parts": []}},
]


@pytest.mark.parametrize("changes", WRONG)
def test_a_network_stays_as_it_was_where_a_checkpoint_is_refused(changes, interrupted):
    found = files.read(interrupted)
    arrays = dict(found.arrays)
    notes = unpack(found.description["notes"], arrays)
    notes["run"].update(changes)
    for path in (interrupted, files.previous(interrupted)):
        with open(path, "wb") as file:
            write_archive(file, files.CHECKPOINT, arrays, {**found.description, "notes": pack(notes, arrays, "again")})
    net = hf.FFNet([2, 4, 1], layers=["Linear", "Tanh", "Linear"], rng=3)
    before, options = net.W.copy(), {"minibatch_size": 8, "print_period": None, "test": (X[:5], T[:5])}
    with pytest.raises(ValueError, match="do not fit together"):
        net.run_epochs(X, T, OPTIMIZERS["plain"](), 8, checkpoint=interrupted, resume=True, **options)
    np.testing.assert_array_equal(net.W, before)
    other = hf.FFNet([2, 4, 1], layers=["Linear", "Tanh", "Linear"], rng=3)
    np.testing.assert_array_equal(net.rng.random(3), other.rng.random(3))


def test_parameters_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    of_fit(OPTIMIZERS["sgd"](), checkpoint=path, callbacks=[InterruptAfter(2)])
    found = files.read(path)
    for place in (path, files.previous(path)):
        with open(place, "wb") as file:
            arrays = {**found.arrays, "params.0": np.full_like(found.arrays["params.0"], np.nan)}
            write_archive(file, files.CHECKPOINT, arrays, found.description)
    with pytest.raises(ValueError, match="not finite"):
        of_fit(OPTIMIZERS["sgd"](), checkpoint=path, resume=True)


def test_an_array_of_an_impossible_shape_is_passed_over(interrupted):
    found, expected = files.read(interrupted), in_minibatches(OPTIMIZERS["plain"]())
    with open(interrupted, "wb") as file:
        write_archive(file, files.CHECKPOINT, {"x": np.zeros((4, 0, 4))}, found.description)
    content = interrupted.read_bytes().replace(b"[4, 0, 4]", b"[%d, 0, 4]" % (1 << 62))
    length = int.from_bytes(content[:8], "little") + len(str(1 << 62)) - 1
    interrupted.write_bytes(length.to_bytes(8, "little") + content[8:])
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True), expected)


def test_what_each_of_many_updates_says_fits_into_a_file():
    class Said(NamedTuple):
        line: str

    updates, arrays = [Said(f"{number} {'x' * 200}") for number in range(30000)], {}
    described = pack_epochs([Epoch(0, 1.0, 1.0, updates)], arrays)
    write_archive(io.BytesIO(), files.CHECKPOINT, arrays, described)
    ((*_, found, _),) = unpack_epochs(described, arrays)
    assert [record.line for record in found] == [record.line for record in updates]


def test_a_checkpoint_that_is_moved_while_it_is_looked_for(interrupted, monkeypatch):
    read = files.read

    def moved_then_read(path, *rest):
        if path == interrupted and interrupted.exists():
            os.replace(interrupted, files.previous(interrupted))
        return read(path, *rest)

    monkeypatch.setattr(files, "read", moved_then_read)
    assert files.newest(interrupted).path == files.previous(interrupted)


def test_a_file_of_an_impossible_size_is_refused_by_its_header(interrupted, monkeypatch):
    """The one before serves; the arrays of the large one, a hole in the file, are never read."""
    expected, found = in_minibatches(OPTIMIZERS["plain"]()), files.read(interrupted)
    hole = np.zeros(1, np.uint8)
    with open(interrupted, "wb") as file:
        write_archive(file, files.CHECKPOINT, {**found.arrays, "notes": hole}, found.description)
    content = interrupted.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    size, start = 1 << 36, header["notes"]["data_offsets"][0]
    header["notes"] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
    changed = json.dumps(header).encode()
    with open(interrupted, "wb") as file:
        file.write(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
        file.truncate(8 + len(changed) + start + size)
    read, original = [], Archive.arrays
    monkeypatch.setattr(Archive, "arrays", lambda archive: read.append(archive.path) or original(archive))
    same(in_minibatches(OPTIMIZERS["plain"](), checkpoint=interrupted, resume=True), expected)
    assert read == [files.previous(interrupted)]


def test_a_run_that_came_to_nothing_leaves_no_checkpoint_in_the_way(tmp_path):
    path = tmp_path / "run.ckpt"
    with pytest.raises(ValueError, match="gave no batch at all"):
        of_fit(OPTIMIZERS["plain"](), [], None, checkpoint=path)
    of_fit(OPTIMIZERS["plain"](), BATCHES, None, checkpoint=path)


def test_a_position_that_no_file_can_hold_is_none(tmp_path, caplog):
    class Strange(Loader):
        def state_dict(self):
            return {"generator": object()}

    path = tmp_path / "run.ckpt"
    of_fit(OPTIMIZERS["plain"](), Strange(), None, checkpoint=path, callbacks=[InterruptAfter(7)])
    assert "or not in plain values" in caplog.text
    result = of_fit(OPTIMIZERS["plain"](), Strange(), None, checkpoint=path, resume=True)
    assert [len(epoch.updates) for epoch in result.epochs] == [5, 2, 5, 5, 5, 5, 5, 5]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no folder that rejects files of everybody")
def test_a_folder_that_cannot_be_written_to():
    """The system's own folder rejects files, those of root too."""
    with pytest.raises(OSError, match="/proc"):
        in_minibatches(OPTIMIZERS["sgd"](), checkpoint="/proc/run.ckpt")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are those of Unix")
def test_a_disk_that_fills_up_is_told_of_and_costs_no_checkpoint(tmp_path, caplog):
    """From the first update on, the system lets no file of this process grow beyond 1,000 bytes."""
    import resource

    path, before = tmp_path / "run.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full:
        def on_update(self, *event):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        result = in_minibatches(OPTIMIZERS["sgd"](), checkpoint=path, checkpoint_every=1, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the last checkpoint could not be written" in result.reason
    assert "File too large" in result.reason
    assert "A checkpoint could not be written, and the one before stays" in caplog.text
    assert os.listdir(tmp_path) == ["run.ckpt"]
    assert files.read(path).description["updates"] == 0
    same(in_minibatches(OPTIMIZERS["sgd"](), checkpoint=path, resume=True), in_minibatches(OPTIMIZERS["sgd"]()))


def test_what_killed_writers_left_is_removed(tmp_path):
    path = tmp_path / "run.ckpt"
    Path(tmp_path, ".run.ckpt.0123456789abcdef.tmp").write_bytes(b"half")
    Path(tmp_path, ".other.ckpt.0123456789abcdef.tmp").write_bytes(b"half")
    in_minibatches(OPTIMIZERS["sgd"](), checkpoint=path)
    assert sorted(os.listdir(tmp_path)) == [".other.ckpt.0123456789abcdef.tmp", "run.ckpt", "run.ckpt.previous"]
