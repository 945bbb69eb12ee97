"""Shared by all tests: no downloads, and data from outside the repository where it is to be had."""

from __future__ import annotations

import gc
import os
import signal
from collections import defaultdict
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook
from platformdirs import user_cache_path

# The shapes in the types are checked while the tests run, at the time of tracing. The hook must come before the package.
# Modules whose functions users call with anything check their arguments themselves, and are not here.
# Nor is the algebra on pytrees: checked at every line of an algorithm, it would take most of the time of tracing.
ENGINE = Path(__file__).parents[1] / "src" / "hessianfree" / "engine"
STATING_SHAPES = [path.stem for path in ENGINE.glob("*.py") if "from jaxtyping" in path.read_text()]
CHECKED = [f"hessianfree.engine.{name}" for name in STATING_SHAPES if name != "trees"]
CHECKED += ["hessianfree.curvature.operators", "hessianfree.curvature.spectra"]
install_import_hook(CHECKED, "shapes.check")

os.environ["HESSIANFREE_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background jobs ignore Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Most of the time of a test is compilation, and most of that LLVM's: two fifths of all the time are saved without its
# optimisations. What XLA makes of a program, which some tests look at, stays the same.
if "--xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):  # test processes inherit it
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
# Both test processes, and the next run, in this or another clone, take what one of them has compiled before: that is
# two fifths of the time of all tests. A key holds the program, the options and the version of the compiler.
jax.config.update("jax_compilation_cache_dir", str(user_cache_path("hessianfree") / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist.npz"

# Property tests draw values, never shapes: every new shape compiles. Failures print how to repeat them.
hypothesis.settings.register_profile("repo", max_examples=25, deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("repo")


# Compiled programs are many objects that stay. To look through all of them for garbage as often as Python does by default
# takes a twentieth of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave all but a few cases of the checks marked so to `-m long`."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("few"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for found in cases.values():
        (count,) = found[0].get_closest_marker("few").args
        kept = {round(number * (len(found) - 1) / max(count - 1, 1)) for number in range(count)}
        for number, item in enumerate(found):
            if number not in kept:
                item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_the_module():
    """Let compiled programs go after each module.

    Each takes a dozen memory mappings, and a process may have 65,530 of them on Linux (vm.max_map_count): beyond that
    the compiler crashes, which all tests in two processes came to.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def mnist_path() -> Path:
    """All of MNIST, or a skip."""
    if not MNIST.exists():
        pytest.skip(f"no MNIST file at {MNIST}")
    return MNIST


@pytest.fixture
def backend():
    """Choose a backend for one test."""
    import matplotlib
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend()
    yield matplotlib.use
    plt.close("all")
    matplotlib.use(before)


@pytest.fixture
def windows(backend, monkeypatch):
    """A display in memory; what the test appends to `user` happens in turn."""
    import stand_in_windows

    # The toolkit of the stand-in needs no display, whatever matplotlib finds on this machine.
    monkeypatch.setattr("matplotlib.cbook._get_running_interactive_framework", lambda: None)
    backend("module://stand_in_windows")
    for record in (stand_in_windows.user, stand_in_windows.shown, stand_in_windows.redraws):
        record.clear()
    return stand_in_windows
