"""Feedforward networks, under the path of the classic interface."""

from hessianfree.networks.ffnet import FFNet as FFNet
