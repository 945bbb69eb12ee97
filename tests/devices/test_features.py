"""Features of a fit together with devices; see features_program.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scale_cases import environment

import hessianfree as hf

REFUSALS = {
    "split parameters": "pass the mesh of the parameters as devices",
    "normalization": "The model does not treat every example by itself",
}


@pytest.mark.long
def test_features_do_not_depend_on_devices():
    program = Path(__file__).with_name("features_program.py")
    done = subprocess.run(
        [sys.executable, str(program)], env=environment(8), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, told in REFUSALS.items():
        assert told in found.pop(name), name
    assert max(found.values()) < 1e-9, found


def test_a_curvature_batch_is_counted_against_the_examples_given():
    optimizer = hf.opt.HessianFree(curvature_batch=23)
    optimizer.batch_examples = 21  # of 24, on eight devices
    with pytest.raises(ValueError, match="given 23 examples, but the minibatch has 21"):
        optimizer.in_use()


def test_memory_refuses_what_is_no_optimizer():
    objective = hf.Objective(lambda p, x: jnp.tanh(x @ p))
    with pytest.raises(TypeError, match="optimizer is 'kfac'; an optimizer is expected"):
        hf.memory(objective, np.ones((3, 2), np.float32), (np.ones((4, 3)), np.ones((4, 2))), "kfac")
