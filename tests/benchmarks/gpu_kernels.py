"""What Triton's compiler makes of the GPU kernels for the layers of the models, without a GPU (see gn/README.md).

An access that is narrower than 16 bytes or wastes a part of a sector, or a kernel that spills more than 32 bytes of
each thread, ends the script with 1.
"""

import argparse
import itertools
import sys

import torch

from gn.call import Call
from gn.cuda import ahead

LAYERS = (
    # resnet20 with 8 groups
    ((16, 32), 8), ((32, 16), 8), ((64, 8), 8),
    # resnet18 with 32 groups
    ((64, 32), 32), ((128, 16), 32), ((256, 8), 32), ((512, 4), 32),
    # LayerNorm and InstanceNorm
    ((16, 32), 1), ((64, 32), 1), ((512, 4), 1), ((16, 32), 16), ((64, 32), 64),
)  # fmt: skip
FORMATS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", type=int, default=90, help="compute capability (default: 90)")
    capability = parser.parse_args().capability
    ahead.use_target(capability)
    print("| layer | groups | format | registers | occupancy | spilled | bytes per access | sectors used |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    failed = False
    for ((channels, side), groups), layout in itertools.product(LAYERS, FORMATS):
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.empty((128, channels, side, side), dtype=dtype, device="meta").to(memory_format=FORMATS[layout])
            weight, bias = torch.empty((2, channels), device="meta").unbind()
            call = Call(x, groups, weight, bias, residual=torch.empty_like(x), activation="relu")
            kernels = ahead.compile_call(call, capability, return_skip=True)
            accesses = [access for kernel in kernels for access in kernel.tile_accesses]
            spilled = sum(kernel.spilled for kernel in kernels)
            size, use = min(a.bytes_per_thread for a in accesses), min(a.sector_use for a in accesses)
            failed |= spilled > 32 or size < 16 or use < 1
            passes = kernels[:2]  # the third, `finish`, has no tile of x
            registers = ", ".join(str(kernel.registers) for kernel in passes)
            occupancy = ", ".join(f"{100 * kernel.occupancy:.0f} %" for kernel in passes)
            cells.append((registers, occupancy, str(spilled), str(size), f"{100 * use:.0f} %"))
        print(
            f"| {channels}×{side}×{side} | {groups} | {layout} |",
            " | ".join(map("; ".join, zip(*cells, strict=True))),
            "|",
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
