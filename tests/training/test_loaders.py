"""Loaders of grain and torch as data of a fit."""

from __future__ import annotations

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

RNG = np.random.RandomState(0)
X = RNG.rand(40, 4).astype(np.float32)
T = np.tanh(X @ RNG.randn(4, 2)).astype(np.float32)


def model(params, x):
    return jnp.tanh(x @ params["W"] + params["b"])


def fit(data, **options):
    start = {"W": np.full((4, 2), 0.1, np.float32), "b": np.zeros(2, np.float32)}
    optimizer = hf.opt.HessianFree(CG_iter=4, damping_rule=hf.opt.LevenbergMarquardt(hindsight=True))
    return hf.fit(
        hf.Objective(model), start, data, optimizer, max_epochs=3, print_period=None, target_err=-1, **options
    )


class Source:
    def __len__(self):
        return len(X)

    def __getitem__(self, number):
        return X[number], T[number]


class StopAfter:
    def __init__(self, updates):
        self.left = updates

    def on_update(self, epoch_number, update, updates, record):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


def batches(loader, epochs):
    """What a loader gives, as a fit over lists would see it."""
    return [[tuple(np.asarray(part) for part in batch) for batch in loader] for _ in range(epochs)]


def same(found, expected):
    assert found.history["value"].tolist() == expected.history["value"].tolist()
    for name, leaf in expected.params.items():
        np.testing.assert_array_equal(found.params[name], leaf)


def data_set():
    grain = pytest.importorskip("grain", reason="grain is not installed; the extra `test` brings it")
    return grain.MapDataset.source(Source()).shuffle(seed=1).to_iter_dataset().batch(16)


def test_a_data_set_of_grain():
    found = fit(data_set())
    assert len(found.history["value"]) == 9
    same(found, fit(batches(data_set(), 1)[0]))


def test_a_data_set_of_grain_goes_on_within_an_epoch(tmp_path):
    path = tmp_path / "run.ckpt"
    fit(data_set(), checkpoint=path, checkpoint_every=1, callbacks=[StopAfter(5)])
    same(fit(data_set(), checkpoint=path, resume=True), fit(data_set()))


def test_a_loader_of_grain():
    grain = pytest.importorskip("grain", reason="grain is not installed; the extra `test` brings it")
    sampler = grain.samplers.IndexSampler(40, shuffle=True, seed=0, num_epochs=1)
    loader = grain.DataLoader(data_source=Source(), sampler=sampler, operations=[grain.transforms.Batch(16)])
    same(fit(loader), fit(batches(loader, 1)[0]))


def test_a_loader_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed; it is too large for the extra `test`")
    from torch.utils.data import DataLoader, TensorDataset

    def loader():
        order = torch.Generator().manual_seed(0)
        return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(T)), 16, shuffle=True, generator=order)

    class Epochs:
        """The same batches as lists of numpy arrays, another list for each epoch."""

        def __init__(self):
            self.left = iter(batches(loader(), 3))

        def __iter__(self):
            return iter(next(self.left))

    same(fit(loader()), fit(Epochs()))
