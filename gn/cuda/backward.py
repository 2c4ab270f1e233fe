# mypy: ignore-errors
"""Triton kernels of the backward pass: `backward`, or `sums` and then `project` where several programs share a group.

`finish` adds up the gradients of weight and bias in a fixed order, without atomics, so that they repeat bit for bit.
"""

import triton
import triton.language as tl

from gn.cuda.elementwise import upstream
from gn.cuda.tile import column_sums, columns, joint_group_sums, load, parameters, program, spread, store, tile

__all__ = ["backward", "finish", "project", "sums"]


@triton.jit
def _statistics(statistics_, sample, group, exists, N, G: tl.constexpr, PADDED: tl.constexpr):
    at = statistics_ + sample * G + group
    plane = N.to(tl.int64) * G
    return load(at, exists, PADDED), load(at + plane, exists, PADDED), load(at + 2 * plane, exists, PADDED)


@triton.jit
def _gradient(
    dy_, skip_dy_, x_, residual_, start, offset, mask, hi, lo, rstd, scale, bias,
    ACTIVATION: tl.constexpr, LAST: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """x̂ and dz, the gradient of the input of the activation, of a tile."""
    centred = load(x_ + start + offset, mask, PADDED) - spread(hi, LAST) - spread(lo, LAST)
    if PADDED:
        centred = tl.where(mask, centred, 0.0)
    dy = load(dy_ + start + offset, mask, PADDED)
    if skip_dy_ is not None:
        # Rounded to the dtype, as autograd rounds the sum.
        dy += load(skip_dy_ + start + offset, mask, PADDED)
        dy = dy.to(dy_.dtype.element_ty).to(tl.float32)
    # The operations of the forward pass, so that z has its bits.
    z = tl.fma(centred, spread(scale, LAST), spread(bias, LAST))
    if residual_ is not None:
        residual = load(residual_ + start + offset, mask, PADDED)
        z = residual if ACTIVATION == "relu" else z + residual
    return centred * spread(rstd, LAST), upstream(dy, z, ACTIVATION)


@triton.jit
def _chunk_sums(
    dy_, skip_dy_, x_, residual_, dresidual_, start, first, channel, exists, hi, lo, rstd, scale, bias,
    C: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    SIZE: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The sums of dz and of dz x̂ of channels over BLOCKS tiles; writes dresidual."""
    ROWS: tl.constexpr = BP if LAST else SIZE
    LANES: tl.constexpr = SIZE if LAST else BP
    dz_total = tl.zeros((ROWS, LANES), tl.float32)
    along_total = tl.zeros((ROWS, LANES), tl.float32)
    for i in range(BLOCKS):
        offset, mask = tile(first + i * BP, channel, exists, C, P, LAST, WIDE, BP)
        normalized, dz = _gradient(
            dy_, skip_dy_, x_, residual_, start, offset, mask, hi, lo, rstd, scale, bias, ACTIVATION, LAST, PADDED
        )  # fmt: skip
        if dresidual_ is not None:
            store(dresidual_ + start + offset, dz, mask, PADDED)
        dz_total += dz
        along_total = tl.fma(dz, normalized, along_total)
    return column_sums(dz_total, along_total, LAST)


@triton.jit
def _means(
    dz_sums, along_sums, scale,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The means of scale dz and of scale dz x̂ over groups, from the sums of dz and of dz x̂ of channels."""
    COUNT: tl.constexpr = 1.0 * (C // G) * P
    dz_total, along_total = joint_group_sums(dz_sums * scale, along_sums * scale, BG, BD)
    return dz_total / COUNT, along_total / COUNT


@triton.jit
def _write(dx_, normalized, dz, start, offset, mask, scale, mean, along, LAST: tl.constexpr, PADDED: tl.constexpr):
    """Write dx = scale dz - mean - x̂ along of a tile."""
    shift = tl.fma(normalized, spread(-along, LAST), spread(-mean, LAST))
    store(dx_ + start + offset, tl.fma(dz, spread(scale, LAST), shift), mask, PADDED)


@triton.jit
def _write_chunk(
    dy_, skip_dy_, x_, residual_, dx_, start, first, channel, exists, hi, lo, rstd, scale, bias, mean, along,
    C: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BP: tl.constexpr, BLOCKS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    for i in range(BLOCKS):
        offset, mask = tile(first + i * BP, channel, exists, C, P, LAST, WIDE, BP)
        normalized, dz = _gradient(
            dy_, skip_dy_, x_, residual_, start, offset, mask, hi, lo, rstd, scale, bias, ACTIVATION, LAST, PADDED
        )  # fmt: skip
        _write(dx_, normalized, dz, start, offset, mask, scale, mean, along, LAST, PADDED)


@triton.jit
def _backward_of_sample(
    dy_, skip_dy_, x_, residual_, statistics_, dx_, dresidual_, sample, N, channel, group, exists, weight, bias,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write dx and dresidual of a sample; return the sums of dz x̂ and of dz of its channels."""
    hi, lo, rstd = _statistics(statistics_, sample, group, exists, N, G, PADDED)
    scale = rstd * weight
    start = sample * (C * P)
    if BLOCKS == 1:
        offset, mask = tile(0, channel, exists, C, P, LAST, WIDE, BP)
        normalized, dz = _gradient(
            dy_, skip_dy_, x_, residual_, start, offset, mask, hi, lo, rstd, scale, bias, ACTIVATION, LAST, PADDED
        )  # fmt: skip
        if dresidual_ is not None:
            store(dresidual_ + start + offset, dz, mask, PADDED)
        dz_sums, along_sums = column_sums(dz, dz * normalized, LAST)
    else:
        dz_sums, along_sums = _chunk_sums(
            dy_, skip_dy_, x_, residual_, dresidual_, start, 0, channel, exists, hi, lo, rstd, scale, bias,
            C, P, LAST, WIDE, PADDED, BG * BD, BP, BLOCKS, ACTIVATION,
        )  # fmt: skip
    if dx_ is not None:
        mean, along = _means(dz_sums, along_sums, scale, C, G, P, BG, BD)
        if BLOCKS == 1:
            _write(dx_, normalized, dz, start, offset, mask, scale, mean, along, LAST, PADDED)
        else:
            _write_chunk(
                dy_, skip_dy_, x_, residual_, dx_, start, 0, channel, exists, hi, lo, rstd, scale, bias,
                mean, along, C, P, LAST, WIDE, PADDED, BP, BLOCKS, ACTIVATION,
            )  # fmt: skip
    return along_sums, dz_sums


@triton.jit(do_not_specialize=["N", "samples"])
def backward(
    dy_, skip_dy_, x_, weight_, bias_, residual_, statistics_, dx_, dweight_, dbias_, dresidual_, N, samples,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, ACTIVATION: tl.constexpr,
    SEVERAL: tl.constexpr,
):  # fmt: skip
    """Write dx, dresidual, and the sums of dweight and dbias over `samples` samples: (blocks of samples, C).

    Without SEVERAL, `samples` is 1.
    """
    number, _, block = program(G, BG, 1)
    channel, group, exists = columns(block, C, G, BG, BD)
    weight, bias = parameters(weight_, bias_, channel, exists, PADDED, BG * BD)
    sample = number.to(tl.int64) * samples
    if SEVERAL:
        dweight = tl.zeros((BG * BD,), tl.float32)
        dbias = tl.zeros((BG * BD,), tl.float32)
        end = tl.minimum(sample + samples, N)
        # Not range(), whose bounds must be constants in Triton's interpreter.
        while sample < end:
            along_sums, dz_sums = _backward_of_sample(
                dy_, skip_dy_, x_, residual_, statistics_, dx_, dresidual_, sample, N, channel, group, exists,
                weight, bias, C, G, P, LAST, WIDE, PADDED, BG, BD, BP, BLOCKS, ACTIVATION,
            )  # fmt: skip
            dweight += along_sums
            dbias += dz_sums
            sample += 1
    else:
        dweight, dbias = _backward_of_sample(
            dy_, skip_dy_, x_, residual_, statistics_, dx_, dresidual_, sample, N, channel, group, exists,
            weight, bias, C, G, P, LAST, WIDE, PADDED, BG, BD, BP, BLOCKS, ACTIVATION,
        )  # fmt: skip
    at = number.to(tl.int64) * C + channel
    store(dweight_ + at, dweight, exists, PADDED)
    store(dbias_ + at, dbias, exists, PADDED)


@triton.jit(do_not_specialize=["N"])
def sums(
    dy_, skip_dy_, x_, weight_, bias_, residual_, statistics_, dweight_, dbias_, dresidual_, N,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, CHUNKS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write dresidual, and the sums of dweight and dbias over a chunk of a sample: (N * CHUNKS, C)."""
    SIZE: tl.constexpr = BG * BD
    number, chunk, block = program(G, BG, CHUNKS)
    sample = number.to(tl.int64)
    channel, group, exists = columns(block, C, G, BG, BD)
    weight, bias = parameters(weight_, bias_, channel, exists, PADDED, SIZE)
    hi, lo, rstd = _statistics(statistics_, sample, group, exists, N, G, PADDED)
    scale = rstd * weight
    dz_sums, along_sums = _chunk_sums(
        dy_, skip_dy_, x_, residual_, dresidual_, sample * (C * P), chunk * (BLOCKS * BP), channel, exists,
        hi, lo, rstd, scale, bias, C, P, LAST, WIDE, PADDED, SIZE, BP, BLOCKS, ACTIVATION,
    )  # fmt: skip
    at = (sample * CHUNKS + chunk) * C + channel
    store(dweight_ + at, along_sums, exists, PADDED)
    store(dbias_ + at, dz_sums, exists, PADDED)


@triton.jit
def _added(pointer, channel, exists, C: tl.constexpr, CHUNKS: tl.constexpr, BR: tl.constexpr, SIZE: tl.constexpr):
    """The sum over the chunks of a sample, at each channel."""
    total = tl.zeros((SIZE,), tl.float32)
    for first in range(0, CHUNKS, BR):
        chunk = first + tl.arange(0, BR)[:, None]
        total += tl.sum(tl.load(pointer + chunk * C + channel[None, :], (chunk < CHUNKS) & exists[None, :], 0.0), 0)
    return total


@triton.jit(do_not_specialize=["N"])
def project(
    dy_, skip_dy_, x_, weight_, bias_, residual_, statistics_, dweight_, dbias_, dx_, N,
    C: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, PADDED: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr, BLOCKS: tl.constexpr, CHUNKS: tl.constexpr,
    BR: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write dx of a chunk of a sample, given what `sums` wrote."""
    SIZE: tl.constexpr = BG * BD
    number, chunk, block = program(G, BG, CHUNKS)
    sample = number.to(tl.int64)
    channel, group, exists = columns(block, C, G, BG, BD)
    weight, bias = parameters(weight_, bias_, channel, exists, PADDED, SIZE)
    hi, lo, rstd = _statistics(statistics_, sample, group, exists, N, G, PADDED)
    scale = rstd * weight
    at = sample * (CHUNKS * C)
    dz_sums = _added(dbias_ + at, channel, exists, C, CHUNKS, BR, SIZE)
    along_sums = _added(dweight_ + at, channel, exists, C, CHUNKS, BR, SIZE)
    mean, along = _means(dz_sums, along_sums, scale, C, G, P, BG, BD)
    _write_chunk(
        dy_, skip_dy_, x_, residual_, dx_, sample * (C * P), chunk * (BLOCKS * BP), channel, exists,
        hi, lo, rstd, scale, bias, mean, along, C, P, LAST, WIDE, PADDED, BP, BLOCKS, ACTIVATION,
    )  # fmt: skip


@triton.jit(do_not_specialize=["R"])
def finish(partial_weight_, partial_bias_, dweight_, dbias_, R, C: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """Write the sums of two matrices, (R, C), over their rows."""
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    weight_total = tl.zeros((BR, BC), tl.float32)
    bias_total = tl.zeros((BR, BC), tl.float32)
    row = tl.arange(0, BR)
    first = 0
    while first < R:
        mask = (first + row < R)[:, None] & (channel < C)[None, :]
        offset = (first + row).to(tl.int64)[:, None] * C + channel[None, :]
        weight_total += load(partial_weight_ + offset, mask, True)
        bias_total += load(partial_bias_ + offset, mask, True)
        first += BR
    dweight, dbias = column_sums(weight_total, bias_total, True)
    store(dweight_ + channel, dweight, channel < C, True)
    store(dbias_ + channel, dbias, channel < C, True)
