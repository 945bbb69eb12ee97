"""Demonstrations: `hf.demos.xor()`, or `python -m hessianfree.demos xor`."""

from collections.abc import Callable

from hessianfree.demos.connections import connections
from hessianfree.demos.crossentropy import crossentropy
from hessianfree.demos.mnist import mnist
from hessianfree.demos.xor import xor

#: Every demo by the name it is called by on the command line.
ALL: dict[str, Callable[..., object]] = {
    "xor": xor,
    "crossentropy": crossentropy,
    "connections": connections,
    "mnist": mnist,
}

__all__ = ["ALL", "connections", "crossentropy", "mnist", "xor"]
