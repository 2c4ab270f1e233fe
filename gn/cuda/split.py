# mypy: ignore-errors
"""Triton kernels for groups too large for one program: a first launch reduces tiles, a second applies the result.

A tile is (channels, positions). torch combines the results of the tiles of a channel in a fixed order.
"""

import triton
import triton.language as tl

from gn.cuda.elementwise import activate, upstream

__all__ = ["apply", "gradient_sums", "moments", "project"]


@triton.jit
def _tile(C, P, stride_c, stride_p, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr):
    """The channels of a tile, its offsets, and the mask of its elements."""
    sample = tl.program_id(0)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)[:, None]
    position = tl.program_id(2) * BP + tl.arange(0, BP)[None, :]
    mask = (channel < C) & (position < P)
    if WIDE:
        offset = channel.to(tl.int64) * stride_c + position.to(tl.int64) * stride_p
    else:
        offset = channel * stride_c + position * stride_p
    return channel, sample.to(tl.int64) * C * P + offset, mask


@triton.jit
def _normalized(x_, statistics_, offset, mask, channel, C, NG, G, D):
    """x̂ and 1 / sqrt(variance + eps) of a tile."""
    at = statistics_ + tl.program_id(0) * G + channel // D
    inside = channel < C
    hi = tl.load(at, inside, 0.0)
    lo = tl.load(at + NG, inside, 0.0)
    rstd = tl.load(at + 2 * NG, inside, 0.0)
    x = tl.load(x_ + offset, mask, 0.0).to(tl.float32)
    return tl.where(mask, (x - hi - lo) * rstd, 0.0), rstd


@triton.jit
def _affine(normalized, weight_, bias_, channel, C):
    if weight_ is not None:
        normalized = normalized * tl.load(weight_ + channel, channel < C, 0.0).to(tl.float32)
    if bias_ is not None:
        normalized = normalized + tl.load(bias_ + channel, channel < C, 0.0).to(tl.float32)
    return normalized


@triton.jit
def moments(
    x_, mean_, correction_, square_, C, P, stride_c, stride_p,
    WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write the mean, its correction and the sum of squares about it of each channel in each tile: (N, tiles, C)."""
    channel, offset, mask = _tile(C, P, stride_c, stride_p, WIDE, BC, BP)
    x = tl.load(x_ + offset, mask, 0.0).to(tl.float32)
    count = tl.minimum(P - tl.program_id(2) * BP, BP)
    mean = tl.sum(x, 1)[:, None] / count
    d = tl.where(mask, x - mean, 0.0)
    correction = tl.sum(d, 1)[:, None] / count
    centred = tl.where(mask, d - correction, 0.0)
    at = (tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)) * C + channel
    tl.store(mean_ + at, mean, channel < C)
    tl.store(correction_ + at, correction, channel < C)
    tl.store(square_ + at, tl.sum(centred * centred, 1)[:, None], channel < C)


@triton.jit
def apply(
    x_, weight_, bias_, residual_, y_, statistics_, C, P, stride_c, stride_p, NG, G, D,
    ACTIVATION: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write the output of a tile."""
    channel, offset, mask = _tile(C, P, stride_c, stride_p, WIDE, BC, BP)
    normalized, _ = _normalized(x_, statistics_, offset, mask, channel, C, NG, G, D)
    z = _affine(normalized, weight_, bias_, channel, C)
    if residual_ is not None:
        z += tl.load(residual_ + offset, mask, 0.0).to(tl.float32)
    tl.store(y_ + offset, activate(z, ACTIVATION).to(y_.dtype.element_ty), mask)


@triton.jit
def gradient_sums(
    dy_, x_, weight_, bias_, residual_, statistics_, dresidual_, dz_, dz_normalized_,
    C, P, stride_c, stride_p, NG, G, D,
    ACTIVATION: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write dresidual, and the sums of dz and of dz x̂ of each channel in each tile: (N, tiles, C)."""
    channel, offset, mask = _tile(C, P, stride_c, stride_p, WIDE, BC, BP)
    normalized, _ = _normalized(x_, statistics_, offset, mask, channel, C, NG, G, D)
    z = _affine(normalized, weight_, bias_, channel, C)
    if residual_ is not None:
        residual = tl.load(residual_ + offset, mask, 0.0).to(tl.float32)
        z = residual if ACTIVATION == "relu" else z + residual
    dz = upstream(tl.load(dy_ + offset, mask, 0.0).to(tl.float32), z, ACTIVATION)
    if dresidual_ is not None:
        tl.store(dresidual_ + offset, dz.to(dresidual_.dtype.element_ty), mask)
    at = (tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)) * C + channel
    tl.store(dz_ + at, tl.sum(dz, 1)[:, None], channel < C)
    tl.store(dz_normalized_ + at, tl.sum(dz * normalized, 1)[:, None], channel < C)


@triton.jit
def project(
    dy_, x_, weight_, bias_, statistics_, means_, dx_, C, P, stride_c, stride_p, NG, G, D,
    ACTIVATION: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write dx of a tile; `means` are the means of weight dz and of weight dz x̂ over each group, (2, N, G)."""
    channel, offset, mask = _tile(C, P, stride_c, stride_p, WIDE, BC, BP)
    normalized, rstd = _normalized(x_, statistics_, offset, mask, channel, C, NG, G, D)
    z = _affine(normalized, weight_, bias_, channel, C)
    dz = upstream(tl.load(dy_ + offset, mask, 0.0).to(tl.float32), z, ACTIVATION)
    if weight_ is not None:
        dz *= tl.load(weight_ + channel, channel < C, 0.0).to(tl.float32)
    at = means_ + tl.program_id(0) * G + channel // D
    mean = tl.load(at, channel < C, 0.0)
    along = tl.load(at + NG, channel < C, 0.0)
    tl.store(dx_ + offset, (rstd * (dz - mean - normalized * along)).to(dx_.dtype.element_ty), mask)
