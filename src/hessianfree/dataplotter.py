"""Live plots of a training run, under the path of the classic interface."""

from hessianfree.plotting.live import run as run
