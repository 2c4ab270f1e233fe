# mypy: ignore-errors
"""Triton kernels for groups that fit on chip: every tensor is read once and written once.

A program processes whole groups of consecutive samples. Its tile is (groups, channels of a group, positions), each
padded to a power of two. The strides of channel and position describe the layout of x, so neither layout needs a copy.
"""

import triton
import triton.language as tl

from gn.cuda.elementwise import activate, upstream

__all__ = ["backward", "forward"]


@triton.jit
def _tile(group_block, G, D: tl.constexpr, P, stride_c, stride_p, BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr):
    """The groups and channels of a tile, which of them exist, its offsets, and the mask of its elements."""
    group = group_block * BG + tl.arange(0, BG)[:, None, None]
    within = tl.arange(0, BD)[None, :, None]
    position = tl.arange(0, BP)[None, None, :]
    channel = group * D + within
    inside = (group < G) & (within < D)
    return group, channel, inside, channel * stride_c + position * stride_p, inside & (position < P)


@triton.jit
def _total(values):
    """The sum over a group, (groups, 1, 1)."""
    return tl.sum(tl.sum(values, 2), 1)[:, None, None]


@triton.jit
def forward(
    x_, weight_, bias_, residual_, y_, statistics_, eps,
    N, G, D: tl.constexpr, P, stride_c, stride_p,
    ACTIVATION: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write y and the statistics, (3, N, G), of BG groups of one sample."""
    sample = tl.program_id(0)
    group, channel, inside, offset, mask = _tile(tl.program_id(1), G, D, P, stride_c, stride_p, BG, BD, BP)
    start = sample.to(tl.int64) * G * D * P
    x = tl.load(x_ + start + offset, mask, 0.0).to(tl.float32)

    # The mean is hi + lo: a single float32 is wrong by 5e-4 for values near 1e4.
    count = D * P
    hi = _total(x) / count
    d = tl.where(mask, x - hi, 0.0)
    lo = _total(d) / count
    centred = tl.where(mask, d - lo, 0.0)
    variance = _total(centred * centred) / count
    # Not 0 where the variance overflows: a group that diverges would look like a constant one.
    rstd = tl.where(variance < float("inf"), 1 / tl.sqrt(variance + eps), float("nan"))
    at = statistics_ + sample * G + group
    tl.store(at, hi, group < G)
    tl.store(at + N * G, lo, group < G)
    tl.store(at + 2 * N * G, rstd, group < G)

    z = centred * rstd
    if weight_ is not None:
        z *= tl.load(weight_ + channel, inside, 0.0).to(tl.float32)
    if bias_ is not None:
        z += tl.load(bias_ + channel, inside, 0.0).to(tl.float32)
    if residual_ is not None:
        z += tl.load(residual_ + start + offset, mask, 0.0).to(tl.float32)
    tl.store(y_ + start + offset, activate(z, ACTIVATION).to(y_.dtype.element_ty), mask)


@triton.jit
def backward(
    dy_, x_, weight_, bias_, residual_, statistics_, dx_, dweight_, dbias_, dresidual_,
    N, G, D: tl.constexpr, P, stride_c, stride_p,
    ACTIVATION: tl.constexpr, SAMPLES: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Write dx, dresidual and the partial sums of dweight and dbias of BG groups of SAMPLES samples.

    The partial sums are (blocks of SAMPLES samples, C), computed in a fixed order without atomics.
    """
    block = tl.program_id(0)
    group, channel, learned, offset, inside = _tile(tl.program_id(1), G, D, P, stride_c, stride_p, BG, BD, BP)
    weight = tl.full((BG, BD, 1), 1.0, tl.float32)
    bias = tl.full((BG, BD, 1), 0.0, tl.float32)
    if weight_ is not None:
        weight = tl.load(weight_ + channel, learned, 0.0).to(tl.float32)
    if bias_ is not None:
        bias = tl.load(bias_ + channel, learned, 0.0).to(tl.float32)
    dweight = tl.zeros((BG, BD, 1), tl.float32)
    dbias = tl.zeros((BG, BD, 1), tl.float32)
    count = D * P
    for i in range(SAMPLES):
        sample = block * SAMPLES + i
        present = (group < G) & (sample < N)
        mask = inside & (sample < N)
        start = sample.to(tl.int64) * G * D * P
        at = statistics_ + sample * G + group
        hi = tl.load(at, present, 0.0)
        lo = tl.load(at + N * G, present, 0.0)
        rstd = tl.load(at + 2 * N * G, present, 0.0)
        x = tl.load(x_ + start + offset, mask, 0.0).to(tl.float32)
        dz = tl.load(dy_ + start + offset, mask, 0.0).to(tl.float32)
        normalized = tl.where(mask, (x - hi - lo) * rstd, 0.0)
        z = normalized * weight + bias
        if residual_ is not None:
            residual = tl.load(residual_ + start + offset, mask, 0.0).to(tl.float32)
            z = residual if ACTIVATION == "relu" else z + residual
        dz = upstream(dz, z, ACTIVATION)
        if dresidual_ is not None:
            tl.store(dresidual_ + start + offset, dz.to(dresidual_.dtype.element_ty), mask)
        dweight += tl.sum(dz * normalized, 2)[:, :, None]
        dbias += tl.sum(dz, 2)[:, :, None]
        if dx_ is not None:
            scaled = dz * weight
            mean = _total(scaled) / count
            along = _total(scaled * normalized) / count
            dx = rstd * (scaled - mean - normalized * along)
            tl.store(dx_ + start + offset, dx.to(dx_.dtype.element_ty), mask)
    at = block * G * D + channel
    tl.store(dweight_ + at, dweight, learned)
    tl.store(dbias_ + at, dbias, learned)
