"""Losses of networks, and the class that losses of your own inherit from."""

from hessianfree.networks.parts.loss_funcs import BinaryCrossEntropy as BinaryCrossEntropy
from hessianfree.networks.parts.loss_funcs import ClassificationError as ClassificationError
from hessianfree.networks.parts.loss_funcs import CrossEntropy as CrossEntropy
from hessianfree.networks.parts.loss_funcs import LossFunction as LossFunction
from hessianfree.networks.parts.loss_funcs import LossSet as LossSet
from hessianfree.networks.parts.loss_funcs import SparseL1 as SparseL1
from hessianfree.networks.parts.loss_funcs import SparseL2 as SparseL2
from hessianfree.networks.parts.loss_funcs import SquaredError as SquaredError
from hessianfree.networks.parts.loss_funcs import StructuralDamping as StructuralDamping
from hessianfree.networks.parts.loss_funcs import output_loss as output_loss
