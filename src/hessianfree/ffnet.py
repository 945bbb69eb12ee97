"""Feedforward networks, under the path of the classic interface."""

from hessianfree.networks.ffnet import FFNet

__all__ = ["FFNet"]
