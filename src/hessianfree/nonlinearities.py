"""Layers, and the classes that layers and plants of your own inherit from: `hf.nl`."""

from hessianfree.networks.parts.interfaces import Nonlinearity as Nonlinearity
from hessianfree.networks.parts.interfaces import Plant as Plant
from hessianfree.networks.parts.nonlinearities import BY_NAME as BY_NAME
from hessianfree.networks.parts.nonlinearities import Continuous as Continuous
from hessianfree.networks.parts.nonlinearities import Gaussian as Gaussian
from hessianfree.networks.parts.nonlinearities import Linear as Linear
from hessianfree.networks.parts.nonlinearities import Logistic as Logistic
from hessianfree.networks.parts.nonlinearities import ReLU as ReLU
from hessianfree.networks.parts.nonlinearities import SoftLIF as SoftLIF
from hessianfree.networks.parts.nonlinearities import Softmax as Softmax
from hessianfree.networks.parts.nonlinearities import Tanh as Tanh
