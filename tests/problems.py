"""Objectives of plain functions, as the engine takes them."""

from hessianfree.engine.callables import held
from hessianfree.engine.losses import PerExample


def per_example(function):
    """A loss by a function (outputs, targets) -> (B,)."""
    return PerExample(held(function))
