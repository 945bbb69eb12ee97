"""Demonstrations: `hf.demos.xor()`, or `python -m hessianfree.demos xor`."""

from collections.abc import Callable

from hessianfree.demos.adding import adding
from hessianfree.demos.connections import connections
from hessianfree.demos.convection import convection
from hessianfree.demos.crossentropy import crossentropy
from hessianfree.demos.heat1d import heat1d
from hessianfree.demos.integrator import integrator
from hessianfree.demos.mnist import mnist
from hessianfree.demos.plant import plant
from hessianfree.demos.poisson2d import poisson2d
from hessianfree.demos.profiling import profile
from hessianfree.demos.sinc import sinc
from hessianfree.demos.xor import xor

#: In the order in which they are listed.
DEMOS = (xor, crossentropy, connections, mnist, integrator, adding, plant, poisson2d, heat1d, convection, sinc, profile)
#: Every demo by the name it is called by on the command line.
ALL: dict[str, Callable[..., object]] = {demo.__name__: demo for demo in DEMOS}

__all__ = [
    "ALL",
    "adding",
    "connections",
    "convection",
    "crossentropy",
    "heat1d",
    "integrator",
    "mnist",
    "plant",
    "poisson2d",
    "profile",
    "sinc",
    "xor",
]
