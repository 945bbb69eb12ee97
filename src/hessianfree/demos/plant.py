"""The plant demo: a network steers a dynamic system, which is both its output layer and the source of its inputs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.demos.common import line_figure
from hessianfree.plotting.figures import show_or_save
from hessianfree.training.results import Result

STARTS, STEPS = 32, 15
#: Position gains 0.2 of the velocity in each timestep: s' = s A.
A = np.array([[1, 0], [0.2, 1]])


def plant(plots: bool = True, closed_loop: bool = False) -> Result:
    """Train a 2-16-2 recurrent network to move a body to position 1 and to stop there.

    The state s = (position, velocity) follows s_t = s_{t-1} A + x_t B(s_{t-1}). Here x_t is the input of the output
    layer, and B is zero except for B[1, 1] = tanh(position). The state is the network's output and its next input.

    Args:
        plots: whether to write the series of the run, and to show position and velocity at the end (as PNG files
            where there is no display).
        closed_loop: whether the derivative goes through the plant. If not (as in 2016), each update holds the inputs
            fixed, and the plant can be written in numpy.

    Returns:
        Why the run ended, and its epochs.
    """
    starts = np.random.RandomState(0).uniform(-0.5, 0.5, (STARTS, 2))
    body: hf.nl.Plant = CompiledBody(starts) if closed_loop else NumpyBody(starts)
    net = network(body, np.random.RandomState(0))
    optimizer = hf.opt.HessianFree(CG_iter=20, init_damping=10)
    result = net.run_epochs(body, None, optimizer, max_epochs=150, plotting=plots)

    path = net.forward(body, net.best_W)[-1]
    distance = np.abs(path[:, -1] - [1, 0]).mean(axis=0)
    print(f"best weights: at the end {distance[0]:.3g} from position 1, moving at {distance[1]:.3g} (means)")
    if plots:
        figures = {f"plant_{name}": line_figure(name, path[..., i]) for i, name in enumerate(("position", "velocity"))}
        show_or_save(figures)
    return result


def network(body: hf.nl.Plant, rng: np.random.RandomState | int) -> hf.RNNet:
    """The demo's network, with this body as its output layer.

    Fixed inputs represent the plant only as long as its path changes little. Structural damping of the output ensures
    that. Without it the updates overshoot, and the cost of a run with the plant stays a thousand times higher.
    """
    loss: list[hf.loss_funcs.LossFunction] = [hf.loss_funcs.SquaredError()]
    if not body.closed_loop:
        loss.append(hf.loss_funcs.StructuralDamping(0.1, layers=[2]))
    return hf.RNNet(
        shape=[2, 16, 2],
        layers=[hf.nl.Linear(), hf.nl.Tanh(), body],
        loss_type=loss,
        W_init_params={"coeff": 0.1},
        W_rec_params={"coeff": 0.1},
        rng=rng,
    )


def aims() -> NDArray[np.float32]:
    """Position 1 and velocity 0 at the last timestep; earlier timesteps have no target."""
    targets = np.full((STARTS, STEPS, 2), np.nan, np.float32)
    targets[:, -1] = 1, 0
    return targets


class NumpyBody(hf.nl.Plant):
    """The body in numpy, its state in `self`: a layer with three derivatives, and a source of inputs.

    Pass position and velocity at the start, (B, 2).
    """

    def __init__(self, starts: NDArray[Any]) -> None:
        super().__init__()
        self.starts, self.shape = starts, [len(starts), STEPS, 2]
        self.reset()

    def reset(self, init: Any = None) -> None:
        """Go back to the start."""
        self.state = np.array(self.starts if init is None else init)
        self.before = self.state
        self.inputs: list[NDArray[Any]] = []

    # ---- as a layer

    def activation(self, x: NDArray[Any]) -> NDArray[Any]:
        """Move by one timestep."""
        self.before = self.state
        self.state = self.state @ A
        self.state[:, 1] += x[:, 1] * np.tanh(self.before[:, 0])
        return self.state

    def d_activation(self, x: NDArray[Any], a: NDArray[Any]) -> NDArray[Any]:
        """d_input, d_state and d_output, each [b, i, j] = d_i / d_j: (B, 2, 2, 3)."""
        gain = np.tanh(self.before[:, 0])
        J = np.zeros((len(x), 2, 2, 3))
        J[:, 1, 1, 0] = gain
        J[:, :, :, 1] = A.T
        J[:, 1, 0, 1] += x[:, 1] * (1 - gain**2)
        J[:, :, :, 2] = np.eye(2)
        return J

    # ---- as the source of inputs

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """The state. The layer has moved it already."""
        self.inputs.append(self.state.copy())
        return self.state

    def get_vecs(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """States so far, and the targets."""
        return np.stack(self.inputs, axis=1), aims()


class CompiledBody(hf.nl.Plant):
    """The same body in jax.numpy, differentiated through the whole loop."""

    def __init__(self, starts: NDArray[Any]) -> None:
        super().__init__(closed_loop=True)
        self.starts, self.shape, self.targets = starts, [len(starts), STEPS, 2], aims()

    def initial_state(self, batch: int) -> Any:
        """The start."""
        return self.starts

    def step(self, state: Any, x: Any) -> tuple[Any, Any]:
        """Move by one timestep; the next input is the new state, as `observe` says by default."""
        push = x[:, 1] * jnp.tanh(state[:, 0])
        state = state @ jnp.asarray(A, x.dtype) + jnp.stack([jnp.zeros_like(push), push], axis=1)
        return state, state
