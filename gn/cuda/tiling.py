"""How the values of a tensor are divided among programs and tiles."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from gn.call import Call

__all__ = ["Shape", "Tiling"]

# Elements of a tile that stays in registers from the first reduction to the last use, where channels are innermost.
_RESIDENT = 1 << 14
# Bytes of such a tile for each thread.
_PER_THREAD = 128
# Elements of all tiles of a program that reads them again for each pass, from the cache, and bytes of each tile.
_STREAMED = 1 << 16
_TILE = 1 << 14
# Tiles of a program where several programs share a group, and how many of their results are loaded at once.
_BLOCKS = 4
_COMBINED = 1 << 13
# Channels of a group, padded to a power of two, beyond which there is no kernel.
_MOST_CHANNELS = 1 << 15
# Memory is read by sectors of 32 bytes; DRAM delivers two at a time.
_SECTOR = 32
_BURST = 64
# Warps of a program; a thread then has 128 registers at most.
_MOST_WARPS = 16
# Elements of a thread that leave registers for sums over several samples.
_FEW_ELEMENTS = 32
# Bytes to write and read the sums of dweight and dbias of a channel.
_PARTIAL_SUMS = 16
# Values per multiprocessor that keep its memory accesses busy.
_IN_FLIGHT = 1 << 14
# Launching `finish` takes longer than a second sample in the same program.
_FEW_SAMPLES = 2


@dataclass(frozen=True)
class Tiling:
    """The tiles of a kernel; `gn.cuda.tile` describes them.

    Attributes:
        groups: BG, the groups of a tile.
        group_channels: BD, the channels of a group, padded to a power of two.
        positions: BP, the positions of a tile, a power of two.
        warps: The warps of a program.
        blocks: BLOCKS, the tiles of a program.
        chunks: CHUNKS, the programs that share a group.
    """

    groups: int
    group_channels: int
    positions: int
    warps: int
    blocks: int = 1
    chunks: int = 1

    @property
    def channels(self) -> int:
        """The channels of a tile."""
        return self.groups * self.group_channels

    @property
    def elements(self) -> int:
        """The elements of a tile."""
        return self.channels * self.positions

    @property
    def holds_several_samples(self) -> bool:
        """Whether a program of the backward pass may take several samples, whose sums take further registers."""
        return self.warps < _MOST_WARPS and self.elements <= _FEW_ELEMENTS * 32 * self.warps

    @property
    def chunk_rows(self) -> int:
        """BR, the number of chunks of which a program loads the results at once."""
        return max(1, min(128, _COMBINED // self.channels))


@dataclass(frozen=True)
class Shape:
    """The sizes of `x`, (N, C, *), with `positions` positions, and the number of groups."""

    samples: int
    channels: int
    groups: int
    positions: int
    channels_innermost: bool
    itemsize: int

    @classmethod
    def of(cls, call: Call) -> "Shape":
        """Return the shape of a call whose `x` is contiguous or channels-last, and not empty."""
        x = call.x
        samples, channels = x.shape[:2]
        positions = x.numel() // (samples * channels)
        # Without positions both layouts are the same.
        innermost = positions == 1 or not x.is_contiguous()
        return cls(samples, channels, call.num_groups, positions, innermost, x.itemsize)

    @property
    def group_channels(self) -> int:
        """D, the channels of a group."""
        return self.channels // self.groups

    def tiling(self) -> Tiling | None:
        """Return the tiles; None if a group has too many channels for a tile."""
        return _tiling(self.groups, self.group_channels, self.positions, self.channels_innermost, self.itemsize)

    def column_blocks(self, tiling: Tiling) -> int:
        """Return the number of programs that share the channels of a sample."""
        return -(-self.groups // tiling.groups)

    def samples_per_program(self, tiling: Tiling, processors: int) -> int:
        """Return the number of samples over which a program of the backward pass sums the gradients of the parameters.

        Several, if the GPU stays busy, and if otherwise writing and reading the sums of each sample would move more
        than a quarter of the bytes of x.

        Args:
            tiling: The tiles.
            processors: The number of multiprocessors of the GPU.
        """
        if not tiling.holds_several_samples:
            return 1
        if self.samples <= _FEW_SAMPLES:
            return self.samples
        busy = processors * max(2, _IN_FLIGHT // tiling.elements)
        spare = self.samples * self.column_blocks(tiling) // busy
        return min(self.samples, max(1, spare, -(-4 * _PARTIAL_SUMS // (self.positions * self.itemsize))))

    def constants(self, tiling: Tiling) -> dict[str, Any]:
        """Return the arguments of every kernel that are known at compile time."""
        covered = tiling.positions * tiling.blocks * tiling.chunks
        return {
            "C": self.channels,
            "G": self.groups,
            "P": self.positions,
            "LAST": self.channels_innermost,
            "WIDE": self.channels * self.positions >= 2**31,
            "PADDED": tiling.group_channels != self.group_channels
            or self.groups % tiling.groups != 0
            or covered != self.positions,
            "BG": tiling.groups,
            "BD": tiling.group_channels,
            "BP": tiling.positions,
            "BLOCKS": tiling.blocks,
        }


@cache
def _tiling(groups: int, group_channels: int, positions: int, channels_innermost: bool, itemsize: int) -> Tiling | None:
    most_groups, channels, padded = map(_power_of_two, (groups, group_channels, positions))
    if channels > _MOST_CHANNELS:
        return None

    def spanning(size: int) -> int:
        """The groups whose channels take `size` bytes of a row of memory, if channels are innermost."""
        wanted = _power_of_two(-(-size // (channels * itemsize))) if channels_innermost else 1
        return min(most_groups, wanted)

    group = channels * padded
    resident = _RESIDENT if channels_innermost else _RESIDENT // 2
    if spanning(_SECTOR) * group <= resident:
        # Sums over positions are cheap within a thread, and expensive between warps. Where channels are innermost, a
        # thread has some channels of many positions; otherwise it has consecutive positions of one channel.
        per_thread, least = (_PER_THREAD // itemsize, 1 << 10) if channels_innermost else (16, 1 << 11)
        # Two programs for each sample, at least, keep more of a GPU busy at small batches.
        row = most_groups * channels * itemsize
        width = max(_SECTOR, min(_BURST, row // 2))
        wanted = min(max(spanning(width), least // group), resident // group)
        tile_groups = min(most_groups, max(spanning(_SECTOR), wanted))
        return Tiling(tile_groups, channels, padded, _warps(tile_groups * group, per_thread))

    columns = spanning(_BURST) * channels
    rows = max(1, min(padded, _TILE // (columns * itemsize)))
    blocks = -(-positions // rows)
    chunks = 1
    if columns * positions > _STREAMED:
        blocks, chunks = _BLOCKS, -(-blocks // _BLOCKS)
    return Tiling(columns // channels, channels, rows, _warps(columns * rows, 16), blocks, chunks)


def _warps(elements: int, per_thread: int) -> int:
    return max(1, min(_MOST_WARPS, elements // (32 * per_thread)))


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()
