"""Any function as a model, with any loss: the objective of users who bring their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import Array

from hessianfree.engine.losses import Loss, Mean
from hessianfree.engine.objective import Batch, Objective, mean_squared_gradients
from hessianfree.engine.trees import PyTree


@partial(jax.tree_util.register_dataclass, data_fields=("key",), meta_fields=("model", "loss", "stochastic"))
@dataclass(frozen=True)
class ModelObjective(Objective):
    """Any function of parameters and inputs, with a loss on its outputs.

    Args:
        model: (params, inputs) -> outputs, any pytree with leading axis B.
        loss: see hessianfree.engine.losses.
        stochastic: whether the model takes a random key, or None, as third argument.
        key: that key; the same one for all passes of an update.

    Example:
        >>> import jax.numpy as jnp
        >>> from hessianfree.engine.losses import BY_NAME
        >>> line = ModelObjective(lambda p, x: x * p, BY_NAME["squared_error"])
        >>> data = Batch(jnp.ones(4), jnp.zeros(4), jnp.ones(4))
        >>> line.value(jnp.float32(2.0), data)
        2.0
    """

    model: Callable[..., PyTree]
    loss: Loss
    stochastic: bool = False
    key: Any = None

    def outputs(self, params: PyTree, inputs: PyTree) -> PyTree:
        """The model's outputs."""
        return self.model(params, inputs, self.key) if self.stochastic else self.model(params, inputs)

    def losses(self, outputs: PyTree, targets: PyTree) -> Array:
        """Loss of each example, (B,)."""
        return self.loss.values(outputs, targets)

    def loss_gradients(self, outputs: PyTree, targets: PyTree) -> PyTree:
        """The loss's own."""
        return self.loss.gradients(outputs, targets)

    def loss_curvature(self, outputs: PyTree, targets: PyTree) -> Callable[[PyTree], PyTree]:
        """The loss's own."""
        return self.loss.curvature(outputs, targets)

    def squared_gradients(self, params: PyTree, batch: Batch) -> PyTree:
        """Example by example, in chunks.

        Raises:
            TypeError: for a loss of the whole batch, which has no gradients of single examples.
        """
        if isinstance(self.loss, Mean):
            raise TypeError(
                "The diagonal preconditioner needs the gradients of single examples, but the loss returns one number "
                'for the batch; make it return a value for each example, or take preconditioner="nystrom".'
            )
        return mean_squared_gradients(self, params, batch)
