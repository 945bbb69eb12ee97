"""Objectives of plain functions, as the engine takes them, and minibatches padded to a size."""

from hessianfree.engine.losses import PerExample
from hessianfree.engine.models import FunctionModel, held
from hessianfree.engine.objective import TracedObjective
from hessianfree.networks.core import Examples


def traced(model, loss, stochastic=False, key=None):
    """A function (params, inputs) -> outputs with a loss on its outputs; a stochastic one also takes the key."""
    return TracedObjective(FunctionModel(held(model), stochastic, key), loss)


def per_example(function):
    """A loss by a function (outputs, targets) -> (B,)."""
    return PerExample(held(function))


def cache(net, x, t, size):
    """Cache checked examples in a network, padded to a size with examples of weight zero."""
    net.cache(Examples(x, t, net.batch_of(x, t, size=size)))
