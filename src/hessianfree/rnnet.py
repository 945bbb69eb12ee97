"""Recurrent networks, under the path of the classic interface."""

from hessianfree.networks.rnnet import RNNet as RNNet
