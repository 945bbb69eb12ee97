"""Demonstrations: `hf.demos.xor()`, or `python -m hessianfree.demos xor`."""

from collections.abc import Callable

from hessianfree.demos.adding import adding
from hessianfree.demos.connections import connections
from hessianfree.demos.crossentropy import crossentropy
from hessianfree.demos.integrator import integrator
from hessianfree.demos.mnist import mnist
from hessianfree.demos.plant import plant
from hessianfree.demos.profiling import profile
from hessianfree.demos.xor import xor

#: Every demo by the name it is called by on the command line.
ALL: dict[str, Callable[..., object]] = {
    "xor": xor,
    "crossentropy": crossentropy,
    "connections": connections,
    "mnist": mnist,
    "integrator": integrator,
    "adding": adding,
    "plant": plant,
    "profile": profile,
}

__all__ = ["ALL", "adding", "connections", "crossentropy", "integrator", "mnist", "plant", "profile", "xor"]
