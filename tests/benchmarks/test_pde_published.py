"""What the scripts of benchmarks/peers that run the code of others keep: errors, curves, cells of a notebook."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import pde_published

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


@pytest.fixture
def peer(monkeypatch):
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module


@pytest.fixture
def known(tmp_path):
    path = tmp_path / "known.npz"
    np.savez(path, points=np.zeros((2, 1)), values=[3.0, 4.0], scale=5.0)
    return str(path)


def test_the_error_is_the_root_of_the_mean_square_over_the_scale(peer, known):
    watch = peer("watched").Watch(known, 1.0)
    assert watch.error(lambda points: points + 1) == pytest.approx(np.sqrt((2**2 + 3**2) / 2) / 5)


def test_a_run_ends_when_its_time_is_up(peer, known):
    watched = peer("watched")
    watch = watched.Watch(known, np.inf)
    watch.begin()
    watch.look(lambda points: points, 0)
    watch.look(lambda points: points)
    watch.limit = 0.0
    with pytest.raises(watched.TimeUpError):
        watch.look(lambda points: points + 3)
    assert watch.curve[-1]["updates"] == 2
    assert watch.curve[-1]["test error"] == pytest.approx(np.sqrt(1 / 2) / 5)


def cell(kind, *lines):
    return {"cell_type": kind, "source": [f"{line}\n" for line in lines]}


def test_cells_are_those_up_to_the_settings(peer):
    cells = [cell("markdown", "Text"), cell("code", "import os", "%matplotlib inline"), cell("code", "cfg = 1")]
    later = [cell("code", "train()")]
    assert list(peer("dsgnar").cells({"cells": cells + later})) == ["import os", "cfg = 1"]
    with pytest.raises(ValueError, match="no cell with `cfg"):
        list(peer("dsgnar").cells({"cells": cells[:2]}))


def test_the_shortest_step_may_lie_between_points_that_are_several_steps_apart():
    curve = [{"seconds": s, "updates": n} for s, n in [(1.0, 0), (9.0, 1), (10.0, 1), (16.0, 3), (20.0, 4)]]
    assert pde_published.shortest(curve) == 3.0
    assert pde_published.shortest(curve[:1]) == ""
