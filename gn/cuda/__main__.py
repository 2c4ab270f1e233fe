"""`python -m gn.cuda` compiles the kernels of layers ahead of time, on any machine, and shows the result."""

import argparse
import itertools
import json
import sys
from typing import Any

import torch

from gn.call import Call
from gn.cuda import ahead
from gn.layout import channels_innermost

_HEADER = (
    "| layer | format | dtype | kernel (tile) | warps | registers | spilled | occupancy | bytes per access "
    "| sectors used |"
)


def main() -> int:
    """Compile, print a table or JSON, and return the exit status, 1 if the arguments are not possible."""
    parser = argparse.ArgumentParser(prog="python -m gn.cuda", description=__doc__)
    parser.add_argument("layers", nargs="+", metavar="CxHxW/G", help="channels, sizes and groups, such as 64x32x32/32")
    parser.add_argument("--capability", type=int, required=True, help="compute capability: 80, 90, 100, ...")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--format", nargs="+", default=["channels_last"], choices=["channels_last", "contiguous"])
    parser.add_argument("--activation", default="relu", choices=["relu", "silu", "gelu", "none"])
    parser.add_argument("--residual", action="store_true", help="add a residual")
    parser.add_argument("--return-skip", action="store_true", help="return the output twice")
    parser.add_argument("--batch-size", type=int, default=128, help="does not change the kernels (default: 128)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    ahead.use_target(options.capability)
    rows = []
    try:
        for layer, layout, dtype in itertools.product(options.layers, options.format, options.dtype):
            call = _call(layer, layout, dtype, options)
            kernels = ahead.compile_call(call, options.capability, return_skip=options.return_skip)
            rows += [{"layer": layer, "skip": options.return_skip} | _row(kernel, call) for kernel in kernels]
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        json.dump(rows, sys.stdout)
    else:
        print(_HEADER, "|" + " --- |" * _HEADER.count(" | ") + " --- |", *map(_line, rows), sep="\n")
    return 0


def _call(layer: str, layout: str, dtype: str, options: argparse.Namespace) -> Call:
    """A call of a layer, without memory for its tensors."""
    sizes, _, groups = layer.partition("/")
    try:
        channels, *rest = map(int, sizes.split("x"))
        num_groups = int(groups)
    except ValueError:
        raise ValueError(f"a layer is CxHxW/G, such as 64x32x32/32, got {layer!r}") from None
    if min(channels, num_groups, *rest) < 1 or channels % num_groups:
        raise ValueError(f"the number of groups must divide the number of channels, got {layer!r}")
    x = torch.empty((options.batch_size, channels, *rest), dtype=getattr(torch, dtype), device="meta")
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = torch.empty((2, channels), device="meta").unbind()
    residual = torch.empty_like(x) if options.residual else None
    activation = None if options.activation == "none" else options.activation
    return Call(x, num_groups, weight, bias, 1e-5, residual, activation)


def _row(kernel: ahead.Kernel, call: Call) -> dict[str, Any]:
    accesses = kernel.tile_accesses
    return {
        "format": "channels_last" if channels_innermost(call.x) else "contiguous",
        "dtype": str(call.x.dtype).removeprefix("torch."),
        "kernel": kernel.name,
        "programs": kernel.launch.programs,
        "warps": kernel.warps,
        "registers": kernel.registers,
        "spilled": kernel.spilled,
        "shared_memory": kernel.shared_memory,
        "occupancy": kernel.occupancy,
        "tile": [kernel.tiling.channels, kernel.tiling.positions, kernel.tiling.blocks, kernel.tiling.chunks],
        "loads": [[access.bytes_per_thread, access.sector_use] for access in accesses if access.kind == "load"],
        "stores": [[access.bytes_per_thread, access.sector_use] for access in accesses if access.kind == "store"],
        "global_loads": kernel.accesses("LDG"),
        "global_stores": kernel.accesses("STG"),
        "instructions": kernel.instructions.total(),
    }


def _line(row: dict[str, Any]) -> str:
    channels, positions, *_ = row["tile"]
    accesses = row["loads"] + row["stores"]
    cells = (
        row["layer"],
        row["format"],
        row["dtype"],
        f"{row['kernel']} ({channels}×{positions})",
        row["warps"],
        row["registers"],
        row["spilled"],
        f"{100 * row['occupancy']:.0f} %",
        min((size for size, _ in accesses), default="–"),
        f"{100 * min(use for _, use in accesses):.0f} %" if accesses else "–",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
