"""Recurrent networks, under the path of the classic interface."""

from hessianfree.networks.rnnet import RNNet

__all__ = ["RNNet"]
