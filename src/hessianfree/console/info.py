"""`hessianfree info`: versions, devices, precision, folders and threads, as a report of an error needs them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from hessianfree import __version__
from hessianfree.console import output

EXAMPLES = """
hessianfree info
hessianfree info --json > machine.json
"""

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "optax", "matplotlib")
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "XLA_FLAGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
)


def info(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, devices, precision, folders and threads."""
    found = {"versions": versions(), "machine": machine(), "precision": precision(), "folders": folders()}
    if json:
        typer.echo(output.as_json(found))
        return
    blocks = [f"{name}\n{_indented(entries)}" for name, entries in found.items()]
    typer.echo("\n\n".join(blocks))


def versions() -> dict[str, str]:
    """Of this package, of Python, and of what it computes and draws with."""
    found = {"hessianfree": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def machine() -> dict[str, Any]:
    """Processor, devices of JAX, and threads."""
    import jax
    import numpy  # noqa: F401  # loads its BLAS, so that the search finds it
    from threadpoolctl import threadpool_info

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pools = {f"{pool['user_api']} threads ({pool['internal_api']})": pool["num_threads"] for pool in threadpool_info()}
    return {
        "system": platform.platform(),
        "cores": f"{os.cpu_count()}, of which {usable} may be used",
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        **pools,
        **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def precision() -> dict[str, Any]:
    """What numbers are computed in unless a program asks for something else."""
    import jax

    matmul = jax.config.values["jax_default_matmul_precision"]
    return {
        "networks": "float32; dtype=np.float64 and debug=True compute in float64",
        "jax outside of networks": "float64" if jax.config.values["jax_enable_x64"] else "float32",
        "matrix products": matmul or "highest in this package, JAX's default elsewhere",
    }


def folders() -> dict[str, Any]:
    """Where compiled programs and downloaded data are kept."""
    import jax

    from hessianfree.io.datasets import cache_folder
    from hessianfree.support.runtime import keep_compiled_programs

    keep_compiled_programs()
    programs = jax.config.values["jax_compilation_cache_dir"]
    on = jax.config.values["jax_enable_compilation_cache"] and programs is not None
    data = cache_folder()
    offline = os.environ.get("HESSIANFREE_OFFLINE", "0") not in ("", "0")
    return {
        "compiled programs": str(programs) if on else "not kept",
        "their size": _size(Path(programs)) if on else "0 MB",
        "data": str(data),
        "MNIST": "there" if (data / "mnist.npz").exists() else "not there",
        "downloads": "forbidden by HESSIANFREE_OFFLINE" if offline else "allowed",
    }


def _size(folder: Path) -> str:
    """Size of all files in a folder; those that vanish meanwhile do not count."""
    count = total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
            count += path.is_file()
        except OSError:
            continue
    return f"{total / 1e6:.1f} MB in {count:,} files"


def _indented(entries: dict[str, Any]) -> str:
    rows = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in entries.items()]
    return "\n".join(f"  {line}" for line in output.columns([(name, str(value)) for name, value in rows]).splitlines())
