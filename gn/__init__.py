"""Fused normalizations: `activation(normalize(x) + residual)` in one call, forward and backward.

The package imports torch and nothing else.
"""

from gn.backends import backend
from gn.functional import Activation, batch_norm, group_norm
from gn.module import BatchNorm2d, GroupNorm

__all__ = ["Activation", "BatchNorm2d", "GroupNorm", "backend", "batch_norm", "group_norm"]
