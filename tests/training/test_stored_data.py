"""Data on a disk: the same runs as in memory, bit for bit, and never read as a whole."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr

import hessianfree as hf
from hessianfree.io import stored
from hessianfree.training.reading import read_ahead
from stored_cases import Counted

RNG = np.random.RandomState(0)
X = RNG.rand(43, 4).astype(np.float32)
T = np.tanh(X @ RNG.randn(4, 3)).astype(np.float32)
LABELS = np.argmax(RNG.rand(43, 3) + X[:, :3], axis=1).astype(np.uint8)
WEIGHTS = 1.0 + np.arange(43) % 3
SERIES = RNG.randn(17, 5, 2).astype(np.float32)
KINDS = ["memmap", "hdf5", "zarr", "slices"]
OPTIMIZERS = {
    "HessianFree": lambda: hf.opt.HessianFree(CG_iter=4),
    "Adam": lambda: hf.opt.FirstOrder(optax.adam(0.01)),
}


@pytest.fixture
def store(tmp_path):
    """Puts an array on the disk, in one of the forms."""
    files = []

    def put(kind, array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        if kind == "memmap":
            np.save(f"{path}.npy", array)
            return np.load(f"{path}.npy", mmap_mode="r")
        if kind == "hdf5":
            files.append(h5py.File(path, "w"))
            return files[-1].create_dataset("x", data=array, chunks=(5, *array.shape[1:]))
        if kind == "zarr":
            return zarr.create_array(path, data=array, chunks=(6, *array.shape[1:]))
        return Counted(array) if kind == "slices" else array

    yield put
    for file in files:
        file.close()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hessianfree-reading")]


def model(params, x):
    return jnp.tanh(x @ params["W"] + params["b"])


def start():
    return {"W": np.full((4, 3), 0.1, np.float32), "b": np.zeros(3, np.float32)}


def fit(x, t, *weights, loss="squared_error", optimizer=None, **options):
    settings = {"minibatch_size": 10, "max_epochs": 4, "print_period": None, "target_err": -1} | options
    return hf.fit(
        hf.Objective(model, loss), start(), (x, t, *weights), optimizer or hf.opt.HessianFree(CG_iter=4), **settings
    )


def network(labels=False):
    last, loss = ("Softmax", "cross_entropy") if labels else ("Linear", "squared_error")
    return hf.FFNet([4, 5, 3], layers=["Linear", "Tanh", last], loss_type=loss, rng=1)


def train(net, x, t, optimizer=None, **options):
    settings = {"minibatch_size": 10, "max_epochs": 4, "print_period": None, "target_err": -1} | options
    return net.run_epochs(x, t, optimizer or hf.opt.HessianFree(CG_iter=4), **settings)


def same(one, other):
    for a, b in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- the same as in memory -------------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fit_is_that_of_arrays_in_memory(store, optimizer):
    expected = fit(X, LABELS, WEIGHTS, loss="softmax_cross_entropy", optimizer=OPTIMIZERS[optimizer]())
    for kind in KINDS:
        data = store(kind, X), store(kind, LABELS), store(kind, WEIGHTS)
        found = fit(*data, loss="softmax_cross_entropy", optimizer=OPTIMIZERS[optimizer]())
        same(found.last_params, expected.last_params)
        assert found.history["value"].tolist() == expected.history["value"].tolist()


@pytest.mark.few(1)
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("optimizer", ["HessianFree", "Adam"])
def test_training_a_network_is_that_of_arrays_in_memory(store, optimizer, labels):
    nets = [network(labels) for _ in range(1 + len(KINDS))]
    targets = LABELS if labels else T
    for kind, net in zip(["memory", *KINDS], nets, strict=True):
        result = train(
            net, store(kind, X), store(kind, targets), OPTIMIZERS[optimizer](), test=(X, targets), weights=WEIGHTS
        )
        np.testing.assert_array_equal(net.W, nets[0].W)
        assert net.labels is None or net.classes.tolist() == [0, 1, 2]
        assert result.facts.examples == 43
        assert result.facts.batch == 10


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int64, ">f4"])
def test_types_are_converted_as_those_of_arrays_in_memory(store, dtype):
    x = (20 * X).astype(dtype)
    expected, found = fit(x, T), fit(store("memmap", x), T)
    same(found.params, expected.params)
    nets = network(), network()
    train(nets[0], x, T)
    train(nets[1], store("hdf5", x), T)
    np.testing.assert_array_equal(nets[0].W, nets[1].W)


@pytest.mark.parametrize("labels", [None, "each", "last"])
def test_sequences(store, labels):
    t = {None: np.cumsum(SERIES, axis=1), "each": (SERIES[..., 0] > 0) + 0, "last": (SERIES.sum(axis=(1, 2)) > 0) + 0}[
        labels
    ]
    layers = "Tanh" if labels is None else ["Linear", "Tanh", "Softmax"]
    nets = [
        hf.RNNet([2, 3, 2], layers=layers, loss_type="squared_error" if labels is None else "cross_entropy", rng=0)
        for _ in range(2)
    ]
    for net, kind in zip(nets, ("memory", "zarr"), strict=True):
        train(net, store(kind, SERIES), store(kind, t), minibatch_size=4)
    np.testing.assert_array_equal(nets[0].W, nets[1].W)


def test_several_inputs_some_of_them_stored(store):
    def two(params, inputs):
        return model(params, inputs["stored"] + inputs["kept"])

    results = [
        hf.fit(hf.Objective(two), start(), ({"stored": x, "kept": jnp.asarray(X)}, T), minibatch_size=10, max_epochs=2, print_period=None)
        for x in (X, store("hdf5", X))
    ]  # fmt: skip
    same(results[1].params, results[0].params)


def test_without_minibatches_small_arrays_are_loaded(store):
    expected, found = (fit(x, T, minibatch_size=None) for x in (X, store("zarr", X)))
    same(found.params, expected.params)
    assert found.judged.on == "training"
    net, other = network(), network()
    train(net, store("memmap", X), T, minibatch_size=50)
    train(other, X, T, minibatch_size=50)
    np.testing.assert_array_equal(net.W, other.W)


# ---- never as a whole ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_gaps(monkeypatch):
    """Rows are read with others between them only where they are next to each other, however small they are."""
    monkeypatch.setattr(stored, "GAP", 1)


@pytest.mark.usefixtures("no_gaps")
def test_nothing_is_read_as_a_whole():
    x, t, test = Counted(X, most=30), Counted(T, most=30), Counted(X[:40], most=30)
    result = fit(x, t, minibatch_size=5, max_epochs=2, test=(test, T[:40]))
    assert result.facts.examples == 43
    net = network()
    train(net, x, t, minibatch_size=5, max_epochs=2, test=(test, T[:40]))
    hf.diagnose(result)


@pytest.fixture
def small_memory(monkeypatch):
    monkeypatch.setattr(stored, "memory", lambda: 1000)


@pytest.mark.usefixtures("no_gaps", "small_memory")
def test_what_does_not_fit_into_memory_is_refused_at_the_start():
    x = Counted(np.zeros((5000, 4), np.float32), most=1000)
    t = np.zeros((5000, 3), np.float32)
    for run in (lambda **size: fit(x, t, **size), lambda **size: train(network(), x, t, **size)):
        for size in (None, 5000):
            with pytest.raises(ValueError, match=r"read as a whole.*Pass minibatch_size"):
                run(minibatch_size=size)
        assert run(minibatch_size=100, max_epochs=1).facts.batch == 100
    net = network()
    assert np.isfinite(net.error(None, x, t))  # in pieces
    with pytest.raises(ValueError, match="read as a whole"):
        net.cache_minibatch(x, t)
    net.cache_minibatch(x, t, np.array([3, -1]))
    assert net.inputs.shape == (2, 4)


# ---- judging ---------------------------------------------------------------------------------------------------------


def test_stored_test_data_are_evaluated_in_pieces(store, monkeypatch):
    test = store("hdf5", X), store("zarr", LABELS), store("memmap", WEIGHTS)
    metrics = {"rows": lambda o, t: len(o) + len(t), "loss": "softmax_cross_entropy"}
    options = {"loss": "softmax_cross_entropy", "metrics": metrics, "minibatch_size": 8}
    found = fit(X[:20], LABELS[:20], test=test, **options)
    expected = fit(X[:20], LABELS[:20], test=(X, LABELS, WEIGHTS), **options)
    np.testing.assert_allclose(found.test_errors, expected.test_errors, rtol=1e-5)
    assert found.metrics.keys() == expected.metrics.keys() == {"accuracy", "rows", "loss"}
    for name, values in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name], values, rtol=1e-5)
    assert found.judged == expected.judged


def test_networks_are_evaluated_in_pieces(store, monkeypatch):
    monkeypatch.setattr("hessianfree.networks.stored.PIECE", 8)
    options = {"test_err": "classification_error", "metrics": {"loss": "cross_entropy"}}
    found, expected = (
        train(network(labels=True), X, LABELS, test=(store(kind, X), store(kind, LABELS)), **options)
        for kind in ("hdf5", "memory")
    )
    np.testing.assert_allclose(found.test_errors, expected.test_errors, rtol=1e-5)
    for name, values in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name], values, rtol=1e-5)
    net = network()
    weighted = net.error(None, store("memmap", X), store("memmap", T), WEIGHTS)
    assert weighted == pytest.approx(net.error(None, X, T, WEIGHTS), rel=1e-5)


def test_without_test_data_errors_are_means_of_updates(store):
    x = store("memmap", X)
    for result in (fit(x, T), train(network(), x, T)):
        assert result.judged.on == "updates"
        per_epoch = result.history["new_value"].reshape(4, 5).mean(axis=1)
        np.testing.assert_allclose(result.test_errors, per_epoch, rtol=1e-6)
    with pytest.raises(ValueError, match="metrics are computed on test data"):
        fit(x, T, metrics={"loss": "squared_error"})
    with pytest.raises(ValueError, match="test_err and metrics are of test data"):
        train(network(), x, T, test_err="squared_error")


def test_a_loss_of_the_whole_batch_cannot_judge_in_pieces(store):
    with pytest.raises(ValueError, match="one number for the batch, and test data on a disk"):
        fit(X, T, loss=lambda o, t: jnp.mean((o - t) ** 2), test=(store("memmap", X), T))


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def test_the_next_is_read_while_the_present_one_is_used():
    read = []
    found = read_ahead(lambda place: read.append(place) or place, range(5))
    assert next(found) == 0
    while len(read) < 2:
        time.sleep(0.001)
    time.sleep(0.01)
    assert read == [0, 1]
    assert list(found) == [1, 2, 3, 4] == read[1:]


def test_errors_of_the_reader_come_in_their_place():
    def read(place):
        if place == 2:
            raise OSError("the disk is gone")
        return place

    found = read_ahead(read, range(5))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_errors_during_a_run_reach_the_user_with_the_rows():
    class Broken(Counted):
        def __getitem__(self, key):
            if key.start > 20:
                raise OSError("the disk is gone")
            return super().__getitem__(key)

    for run in (fit, lambda x, t: train(network(), x, t)):
        with pytest.raises(OSError, match="the disk is gone") as caught:
            run(Broken(X), T)
        assert "of them between row" in caught.value.__notes__[0]


def test_ctrl_c_leaves_no_thread(store):
    class Interrupt:
        def on_update(self, epoch_number, update, updates, record):
            if epoch_number == 1:
                os.kill(os.getpid(), signal.SIGINT)

    result = fit(store("hdf5", X), T, callbacks=[Interrupt()])
    assert result.reason.startswith("interrupted")
    assert len(result.epochs) == 2


@pytest.mark.parametrize("of", ["fit", "network"])
@pytest.mark.parametrize("optimizer", ["HessianFree", "Adam"])
def test_a_run_that_is_resumed_is_the_one_that_was_not_interrupted(store, tmp_path, of, optimizer):
    class Stop:
        def on_update(self, epoch_number, update, updates, record):
            if (epoch_number, update) == (1, 2):
                os.kill(os.getpid(), signal.SIGINT)

    x, nets = store("hdf5", X), []

    def run(**options):
        nets.append(network())
        made = OPTIMIZERS[optimizer]()
        return fit(x, T, optimizer=made, **options) if of == "fit" else train(nets[-1], x, T, made, **options)

    expected, path = run(), tmp_path / "run.ckpt"
    run(checkpoint=path, checkpoint_every=1, callbacks=[Stop()])
    found = run(checkpoint=path, resume=True)
    assert found.history["value"].tolist() == expected.history["value"].tolist()
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(one, other)
    x = store("hdf5", X + 1)
    with pytest.raises(ValueError, match=r"of another run. Its (data|examples)"):
        run(checkpoint=path, resume=True)


# ---- bad data --------------------------------------------------------------------------------------------------------

RECORDS = np.zeros(43, [("a", "f4")])
BAD = {
    "no rows": (X[:0], T[:0], "hold no examples|holds no examples"),
    "lengths": (X, T[:-1], "43 inputs but 42 targets|as many examples"),
    "structured": (RECORDS, T, "numbers (are|is) expected|arrays of numbers"),
    "scalar": (np.array(1.0, np.float32), T, r"shape \(\)|as many examples"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("of", ["fit", "network"])
def test_data_that_do_not_fit_are_refused(case, of):
    x, t, message = BAD[case]
    with pytest.raises((TypeError, ValueError), match=message):
        fit(Counted(x, 100), t) if of == "fit" else train(network(), Counted(x, 100), t)


def test_a_closed_file_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", data=X)
    for run in (fit, lambda x, t: train(network(), x, t)):
        with pytest.raises(ValueError, match="keep its file open"):
            run(x, T)


def test_rows_that_are_not_finite_are_named(store, caplog):
    x = X.copy()
    x[[33, 17]] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in (row \d+|2 rows, 17, 33)"):
        train(network(), store("memmap", x), T)
    with caplog.at_level(logging.WARNING, "hessianfree"):
        fit(store("memmap", x), T)
    assert any("inputs are NaN or infinite in" in text for text in caplog.messages)


def test_labels_out_of_range_are_found_when_they_are_read(store):
    labels = LABELS.copy()
    labels[40] = 9
    with pytest.raises(ValueError, match="labels from 0 to 2") as caught:
        fit(X, store("hdf5", labels), loss="softmax_cross_entropy")
    assert "between row" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="4 classes"):
        train(network(labels=True), X, store("hdf5", labels))


def test_targets_of_a_minibatch_may_all_be_unknown(store):
    t = np.where(np.arange(43)[:, None] < 20, T, np.nan)
    nets = network(), network()
    train(nets[0], X, t, minibatch_size=3)
    train(nets[1], X, store("memmap", t), minibatch_size=3)
    np.testing.assert_array_equal(nets[0].W, nets[1].W)


# ---- on several devices ----------------------------------------------------------------------------------------------

ON_DEVICES = """
import sys
import jax.numpy as jnp
import numpy as np
import hessianfree as hf

X = np.load(sys.argv[1])
T, found = np.tanh(X[:, :3]), {"fit": [], "network": []}
options = {"minibatch_size": 10, "max_epochs": 2, "print_period": None, "target_err": -1, "devices": "all"}
for x in (X, np.load(sys.argv[1], mmap_mode="r")):
    objective = hf.Objective(lambda params, x: jnp.tanh(x @ params))
    result = hf.fit(objective, np.full((4, 3), 0.1, np.float32), (x, T), hf.opt.HessianFree(CG_iter=4), **options)
    found["fit"].append(np.asarray(result.last_params))
    net = hf.FFNet([4, 5, 3], layers=["Linear", "Tanh", "Linear"], rng=0)
    net.run_epochs(x, T, hf.opt.HessianFree(CG_iter=4), test=(x, T), **options)
    found["network"].append(net.W)
for memory, disk in found.values():
    np.testing.assert_array_equal(memory, disk)
"""


@pytest.mark.long
def test_minibatches_are_split_over_devices(tmp_path):
    np.save(tmp_path / "x.npy", X)
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ON_DEVICES, str(tmp_path / "x.npy")], env=environment, check=True)
