# mypy: ignore-errors
"""Activations and their derivatives, applied to a tile in float32."""

import triton
import triton.language as tl

__all__ = ["activate", "derivative", "upstream"]


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """Return the activation of `z`. The ReLU uses <= so that it propagates NaN, as torch does."""
    if ACTIVATION == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "silu":
        z = z * tl.sigmoid(z)
    elif ACTIVATION == "gelu":
        z = 0.5 * z * (1 + tl.erf(z * 0.7071067811865476))
    return z


@triton.jit
def derivative(z, ACTIVATION: tl.constexpr):
    """Return the derivative of the activation at `z`, for "silu" and "gelu"."""
    if ACTIVATION == "silu":
        sigmoid = tl.sigmoid(z)
        slope = sigmoid * (1 + z * (1 - sigmoid))
    else:
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        slope = 0.5 * (1 + tl.erf(z * 0.7071067811865476)) + z * density
    return slope


@triton.jit
def upstream(dy, z, ACTIVATION: tl.constexpr):
    """Return the gradient of the input `z` of the activation, given the gradient `dy` of its output."""
    if ACTIVATION == "relu":
        dy = tl.where(z <= 0, 0.0, dy)
    elif ACTIVATION != "none":
        dy = dy * derivative(z, ACTIVATION)
    return dy
