"""What a newcomer gets wrong: each message says what to change, before any work starts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import hessianfree as hf
from hessianfree.console.main import app

X, Y = np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32)
LAYERS = ["Linear", "Tanh", "Linear"]


class Forward(hf.nl.Nonlinearity):
    """A layer as other libraries have it."""

    def forward(self, x):
        return jnp.tanh(x)


class MeanLoss(hf.loss_funcs.LossFunction):
    @hf.loss_funcs.output_loss
    def loss(self, output, targets):
        return jnp.mean((output - targets) ** 2)


class OfOutput(hf.loss_funcs.LossFunction):
    """Without `output_loss`: it gets lists."""

    def loss(self, activities, targets):
        return (activities[-1] - targets) ** 2


class Nothing(hf.loss_funcs.LossFunction):
    pass


def train(x=X, y=Y, net=None, **more):
    net = net or hf.FFNet([2, 3, 1], layers=LAYERS, rng=0)
    return net.run_epochs(x, y, hf.opt.HessianFree(), max_epochs=1, print_period=None, **more)


def classifier(classes):
    layers = ["Linear", "Tanh", "Softmax"]
    return hf.FFNet([2, 3, classes], layers=layers, loss_type="cross_entropy", rng=0)


def with_loss(loss):
    return hf.FFNet([2, 3, 1], layers=LAYERS, loss_type=loss, rng=0)


def sequences(targets):
    net = hf.RNNet([2, 3, 1], layers=LAYERS, rng=0)
    return train(np.zeros((4, 5, 2), np.float32), targets, net)


WRONG = {
    "text as inputs": (lambda: train(X.astype(str)), TypeError, r"inputs are of type .*array\.astype\(np\.float32\)"),
    "objects as inputs": (lambda: train(X.astype(object)), TypeError, "If they are numbers all the same"),
    "no targets": (lambda: train(y=None), TypeError, "targets are None; numbers are expected"),
    "too few outputs for labels": (
        lambda: train(y=np.arange(4), net=classifier(3)),
        ValueError,
        "let the network end with 4 Softmax units, one per class",
    ),
    "one unit": (lambda: train(y=Y[:, 0]), ValueError, r"the output layer has 1 unit: \(examples, 1\) is expected"),
    "one target per sequence": (lambda: sequences(Y), ValueError, "at the last timestep alone, give NaN at all others"),
    "a function as a layer": (
        lambda: hf.FFNet([2, 3, 1], layers=["Linear", jnp.tanh, "Linear"]),
        TypeError,
        r"inherit from hf\.nl\.Nonlinearity and define activation",
    ),
    "a layer without activation": (
        lambda: hf.FFNet([2, 3, 1], layers=["Linear", Forward(), "Linear"]),
        TypeError,
        r"Forward defines neither activation\(x\) nor step\(state, x\); define activation",
    ),
    "sigmoid": (lambda: hf.FFNet([2, 3, 1], layers="sigmoid"), ValueError, "Did you mean 'Logistic'"),
    "mse": (lambda: with_loss("mse"), ValueError, "Did you mean 'squared_error'"),
    "a mean as a loss": (
        lambda: train(net=with_loss(MeanLoss())),
        ValueError,
        r"MeanLoss\.loss returned shape \(\) for 2 examples; give each its own value, without a mean",
    ),
    "a loss of the output": (lambda: train(net=with_loss(OfOutput())), ValueError, "write @hf.loss_funcs.output_loss"),
    "no loss": (lambda: train(net=with_loss(Nothing())), TypeError, "Nothing does not define loss"),
    "a whole number as a parameter": (
        lambda: hf.fit(hf.Objective(lambda p, x: p["a"] * x), {"a": 1}, (Y, Y)),
        TypeError,
        r"the whole number 1 at \['a'\]; floats are trained: write 1\.0",
    ),
    "NaN in a fit": (
        lambda: hf.curve_fit(lambda x, a: a * x, np.arange(3.0), np.array([0, np.nan, 2])),
        ValueError,
        r"the first at index \[1\]; leave these points out",
    ),
    "a path to diagnose": (lambda: hf.diagnose("run.safetensors"), TypeError, r"Read a file with hf\.load\(path\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_message_says_what_to_change(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


def test_a_loss_that_fails_on_lists_has_a_note():
    class OfLists(hf.loss_funcs.LossFunction):
        def loss(self, output, targets):
            return (output - targets) ** 2

    with pytest.raises((TypeError, ValueError), match=r"\w") as caught:
        train(net=with_loss(OfLists()))
    assert "write @hf.loss_funcs.output_loss above a loss of (output, targets)" in caught.value.__notes__[0]


def test_files_of_another_kind_are_named_by_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = hf.FFNet([2, 3, 1], layers=LAYERS, rng=0)
    train(net=net, checkpoint="run.ckpt")
    net.save("a.net")
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    for load, path, message in [
        (hf.load, "run.ckpt", r"found a checkpoint; .* go on from it with resume=PATH"),
        (hf.load, "a.csv", r"a file of another kind, which begins with b'a,b,c"),
        (
            hf.load,
            ".",
            r"found a folder; expected a saved network or result\. To fix it: give the path of a file in it",
        ),
        (hf.plot, "a.csv", r"found no intact pickle, starting with b'a,b,c.*'; expected a plots file, a saved result"),
        (hf.plot, "a.net", "a saved network, which knows nothing of its training"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(path)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("train --resume --output absent", 2, "no run to go on with: there is no absent/config.toml"),
        ("train --resume", 2, "no run to go on with: name its folder by --output"),
        ("train .", 1, ". is a folder; a data file is expected"),
        ("demo xor use_hf=maybe", 2, "xor: use_hf is 'maybe'; True or False is expected"),
        ("demo xor use_hf", 2, "xor: use_hf has no value; write use_hf=VALUE"),
        ("demo xor 3", 2, "xor: use_hf is 3; True or False is expected"),
    ],
)
def test_the_command_line_says_it_too(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


def test_symbols_in_the_help_keep_their_case():
    assert "c, which adds c/2 times" in " ".join(CliRunner().invoke(app, ["train", "--help"]).stdout.split())
