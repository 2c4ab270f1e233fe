"""Compilation of the kernels for a GPU that this machine need not have, and what the compiler made of them."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from gn.call import Call
from gn.cuda.launches import Launch, backward_launches, forward_launches
from gn.cuda.tiling import Shape, Tiling

__all__ = ["PROCESSORS", "Kernel", "compile_call", "use_target"]

PROCESSORS = {80: 108, 90: 132, 100: 148}
"""The multiprocessors of an A100, an H100 or H200, and a B200, by compute capability."""

_THREADS = 2048
_REGISTERS = 1 << 16
_SHARED_MEMORY = {80: 164 << 10}
_SECTOR = 32


class _Target:
    """Stands for Triton's driver of the GPU."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        # Triton keeps kernels by device, so every capability needs another number.
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel."""

    launch: Launch
    tiling: Tiling
    capability: int
    compiled: Any

    @property
    def name(self) -> str:
        """The name of its function."""
        return str(self.launch.kernel.fn.__name__)

    @property
    def warps(self) -> int:
        """The warps of a program."""
        return int(self.compiled.metadata.num_warps)

    @property
    def shared_memory(self) -> int:
        """The shared memory of a program, in bytes."""
        return int(self.compiled.metadata.shared)

    @cached_property
    def _usage(self) -> dict[str, int]:
        return {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", self._dump("-res-usage"))}

    @property
    def registers(self) -> int:
        """The registers of a thread."""
        return self._usage["REG"]

    @property
    def spilled(self) -> int:
        """The bytes of memory of a thread that replace registers."""
        return self._usage["STACK"] + self._usage["LOCAL"]

    @property
    def occupancy(self) -> float:
        """The warps that a multiprocessor can hold at once, divided by the most that any kernel can have."""
        per_warp = -(-self.registers * 32 // 256) * 256
        available = _SHARED_MEMORY.get(self.capability, 228 << 10)
        most = _THREADS // 32
        by_memory = available // (self.shared_memory + 1024)
        programs = min(_REGISTERS // (per_warp * self.warps), most // self.warps, by_memory, 32)
        return programs * self.warps / most

    @cached_property
    def instructions(self) -> Counter[str]:
        """The number of each machine instruction, with its modifiers."""
        return Counter(re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", self._dump("-sass"), re.M))

    def accesses(self, kind: str) -> Counter[int]:
        """Return how many instructions load ("LDG") or store ("STG") each number of bytes for a thread."""
        found: Counter[int] = Counter()
        for name, count in self.instructions.items():
            opcode, *modifiers = name.split(".")
            if opcode == kind:
                sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
                found[next((sizes[m] for m in modifiers if m in sizes), 4)] += count
        return found

    @cached_property
    def tile_accesses(self) -> list["TileAccess"]:
        """The loads and stores of whole tiles, in the order of the program."""
        text = self.compiled.asm["ttgir"]
        layouts = {
            name: _Layout(*(tuple(map(int, axis.split(","))) for axis in axes))
            for name, *axes in re.findall(
                r"(#blocked\w*) = #ttg\.blocked<\{sizePerThread = \[([\d, ]+)\], threadsPerWarp = \[([\d, ]+)\], "
                r"warpsPerCTA = \[([\d, ]+)\], order = \[([\d, ]+)\]",
                text,
            )
        }
        found = re.findall(r"tt\.(load|store) .*tensor<(\d+)x(\d+)x!tt\.ptr<\w+>, (#blocked\w*)>", text)
        if self.name == "finish":
            return []
        axes = self.tiling.channels, self.tiling.positions
        constants = self.launch.constants
        rows, stride = (axes[::-1], constants["C"]) if constants["LAST"] else (axes, constants["P"])
        itemsize = self.launch.arguments[0].itemsize
        return [
            TileAccess(kind, layouts[layout], stride, itemsize)
            for kind, high, wide, layout in found
            if (int(high), int(wide)) == rows
        ]

    def _dump(self, option: str) -> str:
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.compiled.asm["cubin"])
            file.flush()
            return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class _Layout:
    """Which thread holds which element of a tile: `#ttg.blocked` of Triton's intermediate representation."""

    size_per_thread: tuple[int, ...]
    threads_per_warp: tuple[int, ...]
    warps_per_program: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class TileAccess:
    """A load or a store of a tile.

    Attributes:
        kind: "load" or "store".
        layout: The elements of each thread.
        stride: The distance in memory of the rows of the tile, in elements; columns are consecutive.
        itemsize: The bytes of an element.
    """

    kind: str
    layout: _Layout
    stride: int
    itemsize: int

    @property
    def bytes_per_thread(self) -> int:
        """The consecutive bytes that a thread accesses, at most 16."""
        return min(16, self.layout.size_per_thread[1] * self.itemsize)

    @property
    def sector_use(self) -> float:
        """The bytes that the first instruction of a warp accesses, divided by those of the sectors that it touches."""
        high, wide = self.layout.size_per_thread
        elements = self.bytes_per_thread // self.itemsize
        touched = set()
        for thread in range(32):
            # The axes vary in the order of the layout.
            place = [0, 0]
            for axis in self.layout.order:
                thread, place[axis] = divmod(thread, self.layout.threads_per_warp[axis])
            begin = place[0] * high * self.stride + place[1] * wide
            touched |= {(begin + i) * self.itemsize // _SECTOR for i in range(elements)}
        return 32 * self.bytes_per_thread / (len(touched) * _SECTOR)


def use_target(capability: int) -> None:
    """Compile for GPUs of a compute capability, such as 90, for the rest of the process, in which no kernel can run."""
    driver.set_active(_Target(capability))


def compile_call(call: Call, capability: int, *, return_skip: bool = False) -> list[Kernel]:
    """Compile the kernels of a training step of a call, forward and backward, for the target in use.

    Triton caches them as it does for a process on such a GPU, which then compiles nothing.

    Args:
        call: The arguments; tensors of the meta device suffice.
        capability: That of `use_target`.
        return_skip: Whether the output has two gradients.

    Raises:
        ValueError: There is no kernel for so many channels per group.
    """
    shape = Shape.of(call)
    if (tiling := shape.tiling()) is None:
        raise ValueError(f"no kernel has groups of {shape.group_channels} channels")
    (y, statistics), launches = forward_launches(call, shape, tiling)
    saved = call._replace(residual=call.saved_residual(y))
    dy = torch.empty_like(y)
    skip_dy = dy if return_skip else None
    processors = PROCESSORS.get(capability, 132)
    launches += backward_launches(saved, shape, tiling, dy, skip_dy, statistics, True, processors)[1]
    return [Kernel(launch, tiling, capability, launch.compile()) for launch in launches]
