"""A fused GroupNorm: `activation(group_norm(x) + residual)` in one pass, forward and backward.

The package stands alone: it imports torch and nothing else.
"""

from gn.backends import backend
from gn.functional import Activation, group_norm
from gn.module import GroupNorm

__all__ = ["Activation", "GroupNorm", "backend", "group_norm"]
