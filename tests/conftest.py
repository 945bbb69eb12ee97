"""Shared by all tests: no downloads, and data from outside the repository where it is to be had."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

os.environ["HESSIANFREE_OFFLINE"] = "1"
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist.npz"

# Property tests draw values, never shapes: every new shape compiles. Failures print how to repeat them.
hypothesis.settings.register_profile("repo", max_examples=25, deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("repo")


@pytest.fixture
def mnist_path() -> Path:
    """All of MNIST, or a skip."""
    if not MNIST.exists():
        pytest.skip(f"no MNIST file at {MNIST}")
    return MNIST
