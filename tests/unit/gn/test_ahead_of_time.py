"""What Triton's compiler makes of the GPU kernels for real GPUs, none of which is needed.

`tests/benchmarks/gpu_kernels.py` compiles the layers of all models; these tests take one of each kind.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gn.call import Call

pytest.importorskip("triton", reason="Triton is available for Linux only")

Row = dict[str, Any]

ROOT = Path(__file__).parents[3]
# Layers of resnet20 (8 groups) and resnet18 (32), LayerNorm and InstanceNorm: two and four channels per group, the
# smallest maps, one group of 64 x 32 x 32, and one channel per group.
LAYERS = ("16x32x32/8", "512x4x4/32", "64x32x32/1", "64x32x32/64")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Compile ahead of time in another process, because this one interprets Triton."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "gn.cuda", *arguments],
        env=environment | {"TRITON_CACHE_DIR": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(folder: Path, *arguments: str) -> list[Row]:
    """The kernels of layers with a residual."""
    done = run(folder, "--json", "--residual", *arguments)
    assert done.returncode == 0, done.stderr
    rows: list[Row] = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module", name="kernels")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Kernels for an A100, an H100 and a B200."""
    folder = tmp_path_factory.mktemp("triton")
    rows = compiled(folder, *LAYERS, "--capability", "90", "--dtype", "bfloat16", "--return-skip")
    rows += compiled(folder, LAYERS[0], "--capability", "80", "--dtype", "float32")
    rows += compiled(folder, LAYERS[0], "--capability", "100", "--format", "contiguous", "--dtype", "bfloat16")
    return rows


def tiled(kernels: list[Row]) -> list[Row]:
    found = [row for row in kernels if row["kernel"] in ("forward", "backward")]
    assert len(found) == 2 * (len(LAYERS) + 2)
    return found


def test_no_kernel_spills_registers(kernels: list[Row]) -> None:
    assert [(row["layer"], row["kernel"], row["spilled"]) for row in kernels if row["spilled"]] == []


def test_every_access_of_a_tile_takes_16_bytes_and_whole_sectors(kernels: list[Row]) -> None:
    for row in tiled(kernels):
        assert row["loads"], row
        assert all(access == [16, 1.0] for access in row["loads"] + row["stores"]), row


def test_a_resident_tile_is_loaded_and_stored_once(kernels: list[Row]) -> None:
    for row in tiled(kernels):
        channels, positions, blocks, _ = row["tile"]
        if blocks == 1:
            # x and the residual, or x, the output and the gradients of one or two outputs.
            loads = 2 if row["kernel"] == "forward" else 3 + row["skip"]
            stores = 1 if row["kernel"] == "forward" else 2
            assert (len(row["loads"]), len(row["stores"])) == (loads, stores), row
            itemsize = 4 if row["dtype"] == "float32" else 2
            accesses = channels * positions * itemsize // (16 * 32 * row["warps"])
            assert row["global_stores"]["16"] == stores * accesses, row
            # Parameters and statistics add loads, of vectors of channels.
            assert row["global_loads"]["16"] >= loads * accesses, row
            assert set(row["global_loads"]) | set(row["global_stores"]) <= {"4", "8", "16"}, row


def test_a_layer_norm_of_64x32x32_is_one_launch_forward_and_two_backward(kernels: list[Row]) -> None:
    names = [row["kernel"] for row in kernels if row["layer"] == "64x32x32/1"]
    assert set(names) == {"forward", "backward", "finish"}
    assert next(row["tile"][2:] for row in kernels if row["layer"] == "64x32x32/1") == [8, 1]


def test_an_eighth_of_the_warps_of_a_multiprocessor_is_in_use(kernels: list[Row]) -> None:
    """Few warps with many elements each were measured to be faster than many warps (see gn/README.md)."""
    assert all(row["occupancy"] >= 0.125 for row in tiled(kernels))


def test_a_layer_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "64x32x32/7", "--capability", "90")
    assert done.returncode == 2
    assert "must divide the number of channels, got '64x32x32/7'" in done.stderr


def test_a_layer_without_a_kernel_is_refused() -> None:
    from gn.cuda import ahead

    with pytest.raises(ValueError, match="65536 channels"):
        ahead.compile_call(Call(torch.empty(2, 1 << 16, 4, device="meta"), 1), 90)
