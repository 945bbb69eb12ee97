"""A network comes back from its file as it was, in another process too, and nothing in a file can run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessianfree as hf
from hessianfree.io.archives import open_archive, write_archive
from hessianfree.io.files import FileFormatError
from hessianfree.networks.parts import loss_funcs as lf
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.saving import Describer, Maker
from hessianfree.support.keys import split
from hessianfree.training.results import SAVED

OWN = """
import numpy as np
import jax.numpy as jnp
import hessianfree as hf
from hessianfree.networks.parts.loss_funcs import LossFunction, output_loss

class Swish(hf.nl.Nonlinearity):
    def __init__(self, slope, shift):
        super().__init__()
        self.slope, self.shift = slope, np.asarray(shift, np.float32)
    def activation(self, x):
        return x / (1 + jnp.exp(-self.slope * x)) + self.shift

class Quartic(LossFunction):
    def __init__(self, parts):
        self.parts = parts
    @output_loss
    def loss(self, output, targets):
        return ((output - targets) ** 4).sum(axis=-1) * self.parts["weight"]
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts.py").write_text(OWN)
    sys.path.insert(0, str(folder))
    import own_parts

    yield own_parts
    sys.path.remove(str(folder))
    del sys.modules["own_parts"]


def networks(own):
    """Every built-in part, connections, recurrence, precision, and parts of the user's own."""
    wide = {"conns": {0: [1, 2], 1: [2, 3], 2: [3]}, "dtype": np.float64}
    return {
        "plain": hf.FFNet([2, 5, 1], rng=0),
        "wide": hf.FFNet([2, 5, 3, 2], layers=["Linear", "ReLU", nl.SoftLIF(sigma=0.5), "Softmax"], loss_type=lf.CrossEntropy(), rng=1, **wide),
        "penalties": hf.FFNet([2, 4, 3, 1], layers=["Linear", "Gaussian", "Tanh", "Logistic"], rng=2, loss_type=[lf.BinaryCrossEntropy(), lf.SparseL1(0.1), lf.SparseL2(0.2, [1], 0.3)]),
        "recurrent": hf.RNNet([2, 4, 3, 1], rec_layers=[1, 2], layers=["Linear", nl.Continuous(nl.Tanh(), tau=[1, 2, 3, 4], dt=0.5), "Tanh", "Linear"], truncation=(2, 3), loss_type=[lf.SquaredError(), lf.StructuralDamping(0.1)], rng=3),
        "own": hf.FFNet([2, 5, 1], layers=["Linear", own.Swish(1.5, [0, 1, 2, 3, 4]), "Linear"], loss_type=own.Quartic({"weight": 2.0, "unused": [None, (1, "a")]}), rng=4),
    }  # fmt: skip


def data(net):
    rng = np.random.default_rng(5)
    shape = (3, 6) if isinstance(net, hf.RNNet) else (7,)
    return rng.standard_normal((*shape, net.shape[0])), rng.uniform(0.1, 0.9, (*shape, net.shape[-1]))


def shown(net):
    x, t = data(net)
    return [*net.forward(x), np.array(net.error(inputs=x, targets=t)), net.W]


LOAD = """
import sys, numpy as np, hessianfree as hf
sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[2])
import own_parts
from networks.test_saving import shown
for name in sys.argv[4:]:
    net = hf.load(f"{sys.argv[3]}/{name}.net", custom=[own_parts.Swish, own_parts.Quartic])
    expected = np.load(f"{sys.argv[3]}/{name}.npz")
    for i, array in enumerate(shown(net)):
        assert (array == expected[f"arr_{i}"]).all() and array.dtype == expected[f"arr_{i}"].dtype, (name, i)
    print(name, type(net).__name__)
"""


@pytest.mark.long
def test_networks_are_the_same_in_another_process(own, tmp_path):
    given_networks = networks(own)
    for name, net in given_networks.items():
        net.save(tmp_path / f"{name}.net")
        np.savez(tmp_path / f"{name}.npz", *shown(net))
    tests = Path(__file__).parents[1]
    folders = [str(Path(own.__file__).parent), str(tests), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tests)])}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *folders, *given_networks], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1::2] == [type(net).__name__ for net in given_networks.values()]


def test_a_loaded_network_trains_on_as_the_saved_one_does(tmp_path):
    net = hf.FFNet([2, 5, 1], layers="Tanh", rng=0)
    x, t = data(net)
    net.mask = [0, 3]
    net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=5), max_epochs=2, print_period=None)
    net.save(tmp_path / "n")
    other = hf.load(tmp_path / "n")
    for name in ("W", "best_W", "mask"):
        np.testing.assert_array_equal(getattr(other, name), getattr(net, name))
    assert other.best_error == net.best_error
    for each in (net, other):
        each.run_epochs(x, t, hf.opt.HessianFree(CG_iter=5), max_epochs=3, print_period=None)
    np.testing.assert_array_equal(net.W, other.W)


def test_shared_layers_stay_shared(tmp_path):
    hf.FFNet([2, 3, 4, 1], layers="Tanh", rng=0).save(tmp_path / "n")
    layers = hf.load(tmp_path / "n").layers
    assert layers[1] is layers[2] is layers[3] is not layers[0]


@settings(max_examples=20)
@given(
    st.floats(1e-3, 1e3), st.floats(-5, 5), st.floats(0, 10), st.lists(st.floats(1e-30, 1e30), min_size=3, max_size=3)
)
def test_any_values_come_back(sigma, target, weight, tau):
    arrays = {}
    describer = Describer(arrays)
    given_parts = [nl.SoftLIF(sigma), lf.SparseL2(weight, (1, -1), target), nl.Continuous(nl.ReLU(sigma), tau, sigma)]
    numbers = [describer.part("part", part)["object"] for part in given_parts]
    maker = Maker(json.loads(json.dumps(describer.objects)), arrays)
    for part, number in zip(given_parts, numbers, strict=True):
        found = maker.part(number)
        assert type(found) is type(part)
        assert split(found)[0] == split(part)[0]
        for mine, other in zip(split(part)[1], split(found)[1], strict=True):
            np.testing.assert_array_equal(mine, other)


# ---- classes of the user's own ---------------------------------------------------------------------------------------


def test_classes_of_ones_own_must_be_passed(own, tmp_path):
    networks(own)["own"].save(tmp_path / "n")
    with pytest.raises(TypeError, match=r"needs the class own_parts:\w+, which is not part.*custom=\[\.\.\.\]"):
        hf.load(tmp_path / "n")
    with pytest.raises(TypeError, match="needs the class own_parts:Quartic"):
        hf.load(tmp_path / "n", custom=[own.Swish])
    with pytest.raises(TypeError, match="a list of classes"):
        hf.load(tmp_path / "n", custom=own.Swish)


def test_nothing_is_imported_because_a_file_says_so(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\nclass Layer: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        rewrite(tmp_path, lambda d: d["objects"][0].update({"class": "evil:Layer"}))
        with pytest.raises(TypeError, match="needs the class evil:Layer"):
            hf.load(tmp_path / "n")
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil" not in sys.modules


def test_what_cannot_be_written_is_named_and_no_file_is_left(own, tmp_path):
    layer = own.Swish(lambda: 1.0, 0)
    net = hf.FFNet([2, 3, 1], rng=0)
    for wrong, message in ((layer, "layer 1.slope is <function"), (own.Swish(np.random.default_rng(0), 0), "layer 1.slope is a Generator")):  # fmt: skip
        net.layers[1] = wrong
        with pytest.raises(TypeError, match=message):
            net.save(tmp_path / "n")
    loop = own.Quartic({})
    loop.parts["me"] = loop
    net.layers[1], net.loss = nl.Tanh(), loop
    with pytest.raises(TypeError, match="itself a part of"):
        net.save(tmp_path / "n")

    class Mine(hf.FFNet):
        pass

    with pytest.raises(TypeError, match="Mine, a class of your own"):
        Mine([2, 3, 1]).save(tmp_path / "n")
    with pytest.raises(FileNotFoundError, match="no folder"):
        hf.FFNet([2, 3, 1]).save(tmp_path / "none" / "n")
    assert os.listdir(tmp_path) == []


def test_damping_that_followed_an_optimizer_says_so(tmp_path, caplog):
    loss = lf.StructuralDamping(0.5, optimizer=hf.opt.HessianFree())
    hf.RNNet([1, 3, 1], loss_type=[lf.SquaredError(), loss], rng=0).save(tmp_path / "n")
    with caplog.at_level(logging.WARNING, "hessianfree"):
        assert hf.load(tmp_path / "n").loss.set[1].optimizer is None
    assert "set its attribute `optimizer`" in caplog.text


# ---- files that are not what they seem -------------------------------------------------------------------------------


def rewrite(folder, change, arrays=None):
    """A network's file whose description was changed, with a checksum that fits."""
    hf.FFNet([2, 3, 1], layers=["Linear", nl.ReLU(2.0), "Linear"], rng=0).save(folder / "n")
    archive = open_archive(folder / "n", SAVED)
    description = json.loads(json.dumps(archive.description))
    change(description)
    held = {**archive.arrays(), **(arrays or {})}
    with open(folder / "n", "wb") as file:
        write_archive(file, SAVED, held, description)


CHANGES = {
    "a huge layer": lambda d: d.update(shape=[2, 10**9, 1]),
    "a negative layer": lambda d: d.update(shape=[2, -3, 1]),
    "no shape": lambda d: d.pop("shape"),
    "a text for a shape": lambda d: d.update(shape="abc"),
    "connections back": lambda d: d.update(conns=[[1, [0]]]),
    "an unknown class": lambda d: d.update({"class": "NetworkCore"}),
    "an unknown part": lambda d: d["objects"][1].update({"class": "Nonlinearity2"}),
    "a class with code": lambda d: d["objects"][1].update({"class": "os"}),
    "another argument": lambda d: d["objects"][1]["holds"].update(activation=1),
    "a negative maximum": lambda d: d["objects"][1]["holds"].update(max=-1),
    "a text for a maximum": lambda d: d["objects"][1]["holds"].update(max="a"),
    "an unknown object": lambda d: d["layers"][1].update(object=99),
    "a layer too few": lambda d: d["layers"].pop(),
    "a loss for a layer": lambda d: d["layers"].__setitem__(1, d["losses"][0]),
    "no loss": lambda d: d.update(losses=[]),
    "another dtype": lambda d: d.update(dtype="O"),
    "an unknown kind": lambda d: d.update(holds="soup"),
    "many layers": lambda d: d.update(shape=[1] * 10_000, conns=[[i, [i + 1]] for i in range(9_999)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, name):
    rewrite(tmp_path, CHANGES[name])
    with pytest.raises(FileFormatError, match="a description"):
        hf.load(tmp_path / "n")


def test_sets_of_sets_cannot_grow(tmp_path):
    def nested(d):
        for _ in range(60):
            last = {"object": len(d["objects"]) - 1}
            d["objects"].append({"class": "LossSet", "holds": {"set": {"list": [last, last]}}})

    rewrite(tmp_path, nested)
    with pytest.raises(FileFormatError, match="set of losses inside another"):
        hf.load(tmp_path / "n")


@pytest.mark.parametrize(
    "arrays",
    [{"W": np.zeros(3, np.float32)}, {"W": np.full(13, np.nan, np.float32)}, {"mask": np.zeros(13, np.float32)}],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, arrays):
    rewrite(tmp_path, lambda d: None, arrays)
    with pytest.raises(FileFormatError, match="a description"):
        hf.load(tmp_path / "n")
