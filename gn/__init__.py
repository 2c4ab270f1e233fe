"""A fused GroupNorm: `activation(group_norm(x) + residual)` in one operator, forward and backward.

The package imports torch and nothing else.
"""

from gn.backends import backend
from gn.functional import Activation, group_norm
from gn.module import GroupNorm

__all__ = ["Activation", "GroupNorm", "backend", "group_norm"]
