"""Sharded data and parameters pass through a step untouched; two devices are made of one CPU in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from hessianfree.engine import hessian_free as hf
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.models import FunctionModel, held
from hessianfree.engine.objective import Batch, TracedObjective

function = held(lambda p, x: jnp.tanh(x @ p["W"]) @ p["v"])
model = TracedObjective(FunctionModel(function), BY_NAME["squared_error"])
rng = np.random.RandomState(0)
params = {"W": rng.randn(3, 4).astype("f"), "v": rng.randn(4).astype("f")}
batch = Batch(rng.randn(8, 3).astype("f"), rng.randn(8).astype("f"), np.ones(8, "f"))
settings = hf.Settings(cg_iterations=10)
reference = hf.step(model, params, batch, hf.initial_state(1.0), settings).params

by_example = lambda leaf: P("d")
by_unit = lambda leaf: P(None, "d") if leaf.ndim == 2 else P("d")
whole = lambda leaf: P()
for axes, of_params, of_batch in [
    (AxisType.Auto, whole, by_example), (AxisType.Explicit, whole, by_example), (AxisType.Auto, by_unit, whole)
]:
    mesh = jax.make_mesh((2,), ("d",), axis_types=(axes,))
    with jax.set_mesh(mesh):
        place = lambda spec: lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec(leaf)))
        sharded = jax.tree.map(place(of_params), params), jax.tree.map(place(of_batch), batch)
        found = hf.step(model, *sharded, hf.initial_state(1.0), settings).params
    for name, spec in (("W", of_params(params["W"])), ("v", of_params(params["v"]))):
        assert found[name].sharding.is_equivalent_to(NamedSharding(mesh, spec), found[name].ndim), (axes, name)
        np.testing.assert_allclose(jax.device_get(found[name]), jax.device_get(reference[name]), rtol=1e-5)
print("ok", jax.device_count())
"""


@pytest.mark.long
def test_sharded_arrays_pass_through_untouched():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "ok 2", done.stderr
