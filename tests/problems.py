"""Objectives of plain functions, as the engine takes them, and minibatches padded to a size."""

from hessianfree.engine.losses import PerExample
from hessianfree.engine.models import held
from hessianfree.networks.core import Examples


def per_example(function):
    """A loss by a function (outputs, targets) -> (B,)."""
    return PerExample(held(function))


def cache(net, x, t, size):
    """Cache checked examples in a network, padded to a size with examples of weight zero."""
    net.cache(Examples(x, t, net.batch_of(x, t, size=size)))
