# mypy: ignore-errors
"""Triton kernels of the forward pass: `forward`, or `moments` and then `apply` where several programs share a group."""

import triton
import triton.language as tl

from gn.cuda.elementwise import activate
from gn.cuda.tile import column_sums, columns, group_sums, load, parameters, program, spread, store, tile

__all__ = ["apply", "forward", "moments"]


@triton.jit
def _difference(x, mean, mask, LAST: tl.constexpr, PADDED: tl.constexpr):
    d = x - spread(mean, LAST)
    if PADDED:
        d = tl.where(mask, d, 0.0)
    return d


@triton.jit
def _about(hi, d_sums, square_sums, count, BG: tl.constexpr, BD: tl.constexpr):
    """The correction of the mean `hi` and the sum of squares about the mean, from sums of d = x - hi over channels.

    The mean is hi + lo: a single float32 is wrong by 5e-4 for values near 1e4.
    """
    lo = group_sums(d_sums, BG, BD) / count
    square = group_sums(square_sums, BG, BD) - count * lo * lo
    # Rounding may make it negative. Not tl.maximum, which returns 0 for NaN.
    return lo, tl.where(square < 0, 0.0, square)


@triton.jit
def _moments(
    x_, first, count, channel, exists,
    C: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The mean, its correction and the sum of squares about it of BLOCKS tiles, each read twice."""
    AXIS: tl.constexpr = 0 if LAST else 1
    ROWS: tl.constexpr = BP if LAST else BG * BD
    LANES: tl.constexpr = BG * BD if LAST else BP
    total = tl.zeros((ROWS, LANES), tl.float32)
    for i in range(BLOCKS):
        offset, mask = tile(first + i * BP, channel, exists, C, P, LAST, WIDE, BP)
        total += load(x_ + offset, mask, PADDED)
    hi = group_sums(tl.sum(total, AXIS), BG, BD) / count
    d_total = tl.zeros((ROWS, LANES), tl.float32)
    square_total = tl.zeros((ROWS, LANES), tl.float32)
    for i in range(BLOCKS):
        offset, mask = tile(first + i * BP, channel, exists, C, P, LAST, WIDE, BP)
        d = _difference(load(x_ + offset, mask, PADDED), hi, mask, LAST, PADDED)
        d_total += d
        square_total = tl.fma(d, d, square_total)
    d_sums, square_sums = column_sums(d_total, square_total, LAST)
    lo, square = _about(hi, d_sums, square_sums, count, BG, BD)
    return hi, lo, square


@triton.jit
def _rstd(square, count, eps):
    variance = square / count
    # Not 0 where the variance overflows: a group that diverges would look like a constant one.
    return tl.where(variance < float("inf"), 1 / tl.sqrt(variance + eps), float("nan"))


@triton.jit
def _store_statistics(statistics_, sample, group, exists, hi, lo, rstd, N, G: tl.constexpr):
    at = statistics_ + sample * G + group
    plane = N.to(tl.int64) * G
    tl.store(at, hi, exists)
    tl.store(at + plane, lo, exists)
    tl.store(at + 2 * plane, rstd, exists)


@triton.jit
def _write(
    d, lo, scale, bias, residual_, y_, start, offset, mask,
    ACTIVATION: tl.constexpr, LAST: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Write the output of a tile, given d = x - hi and scale = rstd weight."""
    z = tl.fma(d - spread(lo, LAST), spread(scale, LAST), spread(bias, LAST))
    if residual_ is not None:
        z += load(residual_ + start + offset, mask, PADDED)
    store(y_ + start + offset, activate(z, ACTIVATION), mask, PADDED)


@triton.jit(do_not_specialize=["N"])
def forward(
    x_, weight_, bias_, residual_, y_, statistics_, eps, N,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write y and the statistics, (3, N, G), of BG groups of one sample."""
    AXIS: tl.constexpr = 0 if LAST else 1
    COUNT: tl.constexpr = 1.0 * (C // G) * P
    number, _, block = program(G, BG, 1)
    sample = number.to(tl.int64)
    channel, group, exists = columns(block, C, G, BG, BD)
    start = sample * (C * P)
    offset, mask = tile(0, channel, exists, C, P, LAST, WIDE, BP)
    if BLOCKS == 1:
        x = load(x_ + start + offset, mask, PADDED)
        hi = group_sums(tl.sum(x, AXIS), BG, BD) / COUNT
        d = _difference(x, hi, mask, LAST, PADDED)
        d_sums, square_sums = column_sums(d, d * d, LAST)
        lo, square = _about(hi, d_sums, square_sums, COUNT, BG, BD)
    else:
        hi, lo, square = _moments(
            x_ + start, 0, COUNT, channel, exists, C, P, LAST, WIDE, PADDED, BG, BD, BP, BLOCKS
        )  # fmt: skip
    rstd = _rstd(square, COUNT, eps)
    _store_statistics(statistics_, sample, group, exists, hi, lo, rstd, N, G)
    weight, bias = parameters(weight_, bias_, channel, exists, PADDED, BG * BD)
    scale = rstd * weight
    if BLOCKS == 1:
        _write(d, lo, scale, bias, residual_, y_, start, offset, mask, ACTIVATION, LAST, PADDED)
    else:
        for i in range(BLOCKS):
            offset, mask = tile(i * BP, channel, exists, C, P, LAST, WIDE, BP)
            d = load(x_ + start + offset, mask, PADDED) - spread(hi, LAST)
            _write(d, lo, scale, bias, residual_, y_, start, offset, mask, ACTIVATION, LAST, PADDED)


@triton.jit
def moments(
    x_, partial_,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Write the mean, its correction and the sum of squares about it of a chunk of each group: (N, CHUNKS, 3, G)."""
    number, chunk, block = program(G, BG, CHUNKS)
    sample = number.to(tl.int64)
    channel, group, exists = columns(block, C, G, BG, BD)
    first = chunk * (BLOCKS * BP)
    count = ((C // G) * tl.minimum(P - first, BLOCKS * BP)).to(tl.float32)
    hi, lo, square = _moments(
        x_ + sample * (C * P), first, count, channel, exists, C, P, LAST, WIDE, PADDED, BG, BD, BP, BLOCKS
    )  # fmt: skip
    at = partial_ + (sample * CHUNKS + chunk) * (3 * G) + group
    tl.store(at, hi, exists)
    tl.store(at + G, lo, exists)
    tl.store(at + 2 * G, square, exists)


@triton.jit
def _chunk_means(
    partial_, first, pivot, group, exists,
    D: tl.constexpr, G: tl.constexpr, P: tl.constexpr, SIZE: tl.constexpr, CHUNKS: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Of BR chunks: the mean less `pivot`, the sum of squares, and the number of values, all (BR, channels)."""
    chunk = first + tl.arange(0, BR)[:, None]
    present = (chunk < CHUNKS) & exists[None, :]
    at = partial_ + chunk * (3 * G) + group[None, :]
    hi = tl.load(at, present, 0.0)
    lo = tl.load(at + G, present, 0.0)
    square = tl.load(at + 2 * G, present, 0.0)
    count = tl.where(present, (D * tl.minimum(P - chunk * SIZE, SIZE)).to(tl.float32), 0.0)
    return tl.where(present, hi - pivot[None, :] + lo, 0.0), square, count


@triton.jit(do_not_specialize=["N"])
def apply(
    x_, weight_, bias_, residual_, y_, partial_, statistics_, eps, N,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, CHUNKS: tl.constexpr,
    BR: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Combine what `moments` wrote (Chan, Golub and LeVeque, 1979), and write the statistics and y of a chunk."""
    D: tl.constexpr = C // G
    COUNT: tl.constexpr = 1.0 * D * P
    SIZE: tl.constexpr = BLOCKS * BP
    number, chunk, block = program(G, BG, CHUNKS)
    sample = number.to(tl.int64)
    channel, group, exists = columns(block, C, G, BG, BD)
    partial_ += sample * (CHUNKS * 3 * G)
    pivot = tl.load(partial_ + group, exists, 0.0)
    total = tl.zeros((BG * BD,), tl.float32)
    for first in range(0, CHUNKS, BR):
        means, _, counts = _chunk_means(partial_, first, pivot, group, exists, D, G, P, SIZE, CHUNKS, BR)
        total += tl.sum(counts * means, 0)
    mean = total / COUNT
    square = tl.zeros((BG * BD,), tl.float32)
    for first in range(0, CHUNKS, BR):
        means, squares, counts = _chunk_means(partial_, first, pivot, group, exists, D, G, P, SIZE, CHUNKS, BR)
        between = means - mean[None, :]
        square += tl.sum(tl.fma(counts * between, between, squares), 0)
    hi = pivot + mean
    lo = (pivot - hi) + mean
    rstd = _rstd(square, COUNT, eps)
    _store_statistics(statistics_, sample, group, exists & (chunk == 0), hi, lo, rstd, N, G)
    weight, bias = parameters(weight_, bias_, channel, exists, PADDED, BG * BD)
    scale = rstd * weight
    start = sample * (C * P)
    for i in range(BLOCKS):
        offset, mask = tile(chunk * SIZE + i * BP, channel, exists, C, P, LAST, WIDE, BP)
        d = load(x_ + start + offset, mask, PADDED) - spread(hi, LAST)
        _write(d, lo, scale, bias, residual_, y_, start, offset, mask, ACTIVATION, LAST, PADDED)
