"""The cache of compiled programs: where it is, and how it is switched off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax, numpy as np, hessianfree as hf
hf.least_squares([(lambda p, x: p * x - 1, np.ones(3))], np.float64(2), max_steps=1)
print(jax.config.values["jax_compilation_cache_dir"])
"""


def run(folder, **variables):
    """The folder in use after a fit in a process of its own, and the files under the user's cache."""
    given = {**os.environ, "XDG_CACHE_HOME": str(folder), **variables}
    found = subprocess.run([sys.executable, "-c", SCRIPT], env=given, capture_output=True, text=True, check=True)
    return found.stdout.strip(), sorted(path.name for path in folder.rglob("*-cache"))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the variable that moves the cache folder is that of Linux")
def test_compiled_programs_are_kept_unless_the_user_says_otherwise(tmp_path):
    folder, files = run(tmp_path)
    assert folder == str(tmp_path / "hessianfree" / "programs")
    assert files
    assert run(tmp_path)[1] == files  # the second process compiles nothing that it would keep
    for name, variables in {"off": {"JAX_ENABLE_COMPILATION_CACHE": "0"}, "a file": {}}.items():
        own = tmp_path / name
        if name == "a file":
            own.touch()
        assert run(own, **variables) == ("None", [])
