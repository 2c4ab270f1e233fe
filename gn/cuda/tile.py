# mypy: ignore-errors
"""What a program of a kernel works on, and the sums over it.

A tile is two-dimensional, and its inner axis is contiguous in memory: (positions, channels) in channels_last,
(channels, positions) in a contiguous tensor. Triton then gives neighbouring addresses to neighbouring threads. The
channels of a tile are BG whole groups of D channels, each padded to BD, a power of two; the positions are padded to BP.
Values of channels and of groups are vectors of BG * BD elements. A program works on BLOCKS tiles, one after another
along the positions; CHUNKS programs share the positions of a sample.

Every size but the number of samples is known at compile time, so that no mask is computed where nothing is padded.
"""

import triton
import triton.language as tl

__all__ = [
    "column_sums",
    "columns",
    "group_sums",
    "joint_group_sums",
    "load",
    "parameters",
    "program",
    "spread",
    "store",
    "tile",
]


@triton.jit
def program(G: tl.constexpr, BG: tl.constexpr, CHUNKS: tl.constexpr):
    """Return the sample (or the block of samples), the chunk of positions, and the block of groups of this program.

    The grid has one axis, because CUDA limits the others to 65,535 programs.
    """
    COLUMNS: tl.constexpr = (G + BG - 1) // BG
    number = tl.program_id(0)
    return number // (COLUMNS * CHUNKS), number // COLUMNS % CHUNKS, number % COLUMNS


@triton.jit
def columns(block, C: tl.constexpr, G: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr):
    """Return the channels of a block of groups, their groups, and which of them exist."""
    D: tl.constexpr = C // G
    column = tl.arange(0, BG * BD)
    if BD == D:
        # Not by group, so that Triton sees that consecutive channels are consecutive in memory.
        channel = block * (BG * BD) + column
        group = channel // D
        exists = channel < C
    else:
        group = block * BG + column // BD
        channel = group * D + column % BD
        exists = (group < G) & (column % BD < D)
    return channel, group, exists


@triton.jit
def tile(
    first, channel, exists,
    C: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Return the offsets in a sample of a tile that begins at position `first`, and which of its elements exist."""
    position = first + tl.arange(0, BP)
    inside = position < P
    if WIDE:
        position = position.to(tl.int64)
        channel = channel.to(tl.int64)
    if LAST:
        offset = position[:, None] * C + channel[None, :]
        mask = inside[:, None] & exists[None, :]
    else:
        offset = channel[:, None] * P + position[None, :]
        mask = exists[:, None] & inside[None, :]
    return offset, mask


@triton.jit
def load(pointer, mask, PADDED: tl.constexpr):
    """Return values in float32, 0 where the mask is false."""
    values = tl.load(pointer, mask, 0.0) if PADDED else tl.load(pointer)
    return values.to(tl.float32)


@triton.jit
def store(pointer, values, mask, PADDED: tl.constexpr):
    """Store values in the dtype of the pointer."""
    values = values.to(pointer.dtype.element_ty)
    if PADDED:
        tl.store(pointer, values, mask)
    else:
        tl.store(pointer, values)


@triton.jit
def parameters(weight_, bias_, channel, exists, PADDED: tl.constexpr, SIZE: tl.constexpr):
    """Return the weights and biases of channels, with the values that stand for absent ones."""
    weight = tl.full((SIZE,), 1.0, tl.float32)
    bias = tl.full((SIZE,), 0.0, tl.float32)
    if weight_ is not None:
        weight = load(weight_ + channel, exists, PADDED)
    if bias_ is not None:
        bias = load(bias_ + channel, exists, PADDED)
    return weight, bias


@triton.jit
def spread(values, LAST: tl.constexpr):
    """Return values of channels in a shape that broadcasts over a tile."""
    return values[None, :] if LAST else values[:, None]


@triton.jit
def column_sums(a, b, LAST: tl.constexpr):
    """Return the sums over positions of two tiles, in one reduction."""
    AXIS: tl.constexpr = 0 if LAST else 1
    return tl.split(tl.sum(tl.join(a, b), AXIS))


@triton.jit
def joint_group_sums(a, b, BG: tl.constexpr, BD: tl.constexpr):
    """Return `group_sums` of both, in one reduction."""
    if BD > 1:
        total = tl.sum(tl.reshape(tl.join(a, b), (BG, BD, 2)), 1)
        a, b = tl.split(tl.reshape(tl.broadcast_to(total[:, None, :], (BG, BD, 2)), (BG * BD, 2)))
    return a, b


@triton.jit
def group_sums(values, BG: tl.constexpr, BD: tl.constexpr):
    """Return, at each channel, the sum over the channels of its group."""
    if BD > 1:
        total = tl.sum(tl.reshape(values, (BG, BD)), 1)
        values = tl.reshape(tl.broadcast_to(total[:, None], (BG, BD)), (BG * BD,))
    return values
