"""The published import path of the affine transforms and of the non-local block."""

from wsss.layers.nonlocal_block import nonlocal_neural_network
from wsss.ops.affine import Affine

__all__ = ["Affine", "nonlocal_neural_network"]
