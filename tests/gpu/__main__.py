"""`make test-gpu`: all that needs a GPU, in less than ten minutes, as one Markdown table for gn/README.md.

    python -m tests.gpu [--device cuda|cpu]

It needs a checkout, torch 2.11 or newer with Triton, NumPy and pytest; for the parts that train, also pydantic and
safetensors. Each part is a process with a time limit, so that an error on the device does not end the others. The exit
status is 1 if a part failed. With `--device cpu` every part does as little as it can, which tests this program.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gn.cuda import loader

ROOT = Path(__file__).parents[2]
LIMIT_S = 590.0
"""Seconds for all parts together: those that have not ended by then are ended, the least important ones first."""
TRAINING = ("pydantic", "safetensors")
"""Packages that the parts which train need, besides torch and NumPy."""
PYTEST = ["-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-o", "markers=cuda: needs a GPU"]
PYTEST += ["--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
"""pytest without the configuration and the fixtures of the other tests, which need more packages."""

Row = tuple[str, str, str]
"""What was measured, its setting, the result."""


class Failed(Exception):
    """A part failed, or took too long.

    Attributes:
        output: What it printed.
    """

    def __init__(self, reason: str, output: str) -> None:
        self.output = output
        super().__init__(reason)


@dataclass(frozen=True)
class Part:
    """A process of the run.

    Attributes:
        name: Its name.
        command: Arguments of Python.
        limit_s: Seconds after which it is ended.
        rows: Makes the rows of the table from what it printed, or from the JSON that it wrote.
        needs: Packages that it needs.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    rows: Callable[[Any], Iterable[Row]]
    needs: Sequence[str] = ()


def parts(device: str, folder: Path) -> list[Part]:
    """Return the parts for a device, the most important ones first; the measurements write JSON to `folder`."""
    gpu = device == "cuda"

    def measurement(script: str, options: str, limit_s: float, rows: Callable[[Any], Iterable[Row]]) -> Part:
        file = folder / f"{script.replace('/', '.')}-{len(options)}.json"
        program = [f"tests/{script}"] if script.endswith(".py") else ["-m", script]
        command = [*program, "--device", device, *options.split(), "--json", str(file)]
        needs = () if "group_norm" in script else TRAINING
        return Part(script, command, limit_s, lambda _: rows(json.loads(file.read_text())), needs)

    layers = "--format channels_last --without-compile"
    layers += " --captured --batch 2 8 128 512" if gpu else " --batch 2 --threads 1 --network resnet20"
    layers += " --rounds 5 --operation GN+ReLU GN+add+ReLU" if gpu else " --rounds 1"
    tax = "--format channels_last --model resnet20"
    tax += (
        " --captured --dtype bfloat16 --batch 128 8 2 --steps 20"
        if gpu
        else " --batch 2 --rounds 1 --steps 1 --threads 1"
    )
    if not gpu:
        layers += " --dtype float32 --operation GN+ReLU"
        tax += " --dtype float32"
    kernels = ["--noconftest", "tests/unit/gn/test_cuda.py"]
    training = ["--confcutdir=tests/unit", "tests/unit/worker/training/test_cuda.py"]
    found = [
        Part("tests of the kernels", [*PYTEST, "-m", "cuda", *kernels], 90, summary("kernels, large")),
        Part("tests of the training", [*PYTEST, *training], 120, summary("training"), TRAINING),
        measurement("tests.gpu.steps", "", 90, steps),
        measurement("benchmarks/group_norm.py", layers, 120, normalizations),
        measurement("benchmarks/norm_tax.py", tax, 60, taxes),
    ]
    if gpu:
        few = "--format channels_last --dtype bfloat16 --rounds 5 --operation GN+ReLU"
        launched = f"{few} --without-compile --batch 2 128"
        found.append(measurement("benchmarks/group_norm.py", launched, 40, normalizations))
        # torch.compile and the small tests, which also run in Triton's interpreter, compile for minutes.
        found.append(measurement("benchmarks/group_norm.py", f"{few} --captured --batch 128", 100, normalizations))
        found.append(Part("other tests of the kernels", [*PYTEST, *kernels], 300, summary("kernels, all")))
    return found


def run(part: Part, limit_s: float) -> list[Row]:
    """Run a part for `limit_s` seconds at most, and return its rows.

    Raises:
        Failed: It failed or took too long.
    """
    environment = {
        # Plug-ins of pytest may import what this machine lacks.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # As in a training process: `deterministic` needs it.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    try:
        ended = subprocess.run(
            [sys.executable, *part.command],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        raise Failed(f"not done after {limit_s:.1f} s", output) from error
    if ended.returncode:
        *_, last = ("", *filter(None, (ended.stderr + ended.stdout).splitlines()))
        raise Failed(f"exit status {ended.returncode}, {last}", ended.stdout + ended.stderr)
    return list(part.rows(ended.stdout))


def summary(tested: str) -> Callable[[str], Iterable[Row]]:
    """The last line of pytest."""

    def rows(output: str) -> Iterable[Row]:
        *_, last = (line for line in output.splitlines() if re.search(r"\d+ (passed|skipped|deselected)", line))
        yield "tests on the device", tested, re.sub(r" in [\d.]+s.*", "", last).strip("= ")

    return rows


def steps(found: Any) -> Iterable[Row]:
    """Steps a second, and whether a captured step gives the bits of an eager one."""
    for row in found:
        setting = f"{row['model']}, {row['normalization']}, {row['precision']}, batch {row['batch']}"
        eager = f"eager {row['eager']:.0f}"
        if row["captured"] is None:
            yield "steps a second", setting, eager
            continue
        images = row["captured"] * row["batch"]
        yield "steps a second", setting, f"{eager}, captured {row['captured']:.0f} ({images:,.0f} images/s)"
        bits = "equal bits" if row["equal"] else "**other bits**"
        yield "captured against eager", setting, f"{bits} of weights, state and losses after {row['compared']} steps"


def normalizations(found: Any) -> Iterable[Row]:
    """The time of both passes of a layer, and its bandwidth relative to that of a copy."""
    cases: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        key = row["batch"], row["channels"], row["size"], row["dtype"], row["operation"]
        cases.setdefault(key, {})[row["implementation"]] = row
    for (batch, channels, size, dtype, operation), rows in cases.items():
        gn = rows.pop("gn")
        others = ", ".join(f"{name} {row['both'] / gn['both']:.2f}" for name, row in rows.items())
        result = f"{gn['both']:.0f} µs, {gn['copy'] / gn['both']:.0%} of a copy's bandwidth; ÷ gn: {others}"
        how = "captured" if found["conditions"]["captured"] else "launched from Python"
        yield f"{operation}, both passes, {how}", f"{batch}×{channels}×{size}×{size}, channels_last, {dtype}", result


def taxes(found: Any) -> Iterable[Row]:
    """The time of a step relative to that of the network without normalization."""
    for row in found:
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["ratios"].items())
        yield "step ÷ that without normalization", f"{row['model']}, {row['dtype']}, batch {row['batch']}", ratios


def machine(device: str) -> str:
    """Return what the numbers depend on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    triton = version("triton") if find_spec("triton") else "not installed"
    return f"{name}; torch {torch.__version__}, Triton {triton}, Python {platform.python_version()}"


def main() -> int:
    """Run all parts, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if device == "cuda":
        if not torch.cuda.is_available():
            parser.error(f"torch {torch.__version__} finds no GPU: see nvidia-smi, or give --device cpu")
        if (reason := loader.failure()) is not None:
            parser.error(f"the kernels cannot run: {reason}")
    began = time.monotonic()
    rows: list[Row] = []
    failed: dict[str, Failed] = {}
    left_out: list[str] = []
    missing: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(device, Path(folder)):
            if lacking := [package for package in part.needs if find_spec(package) is None]:
                left_out.append(part.name)
                missing.update(lacking)
                continue
            print(f"{part.name} ...", file=sys.stderr, flush=True)
            try:
                rows += run(part, min(part.limit_s, max(1.0, began + LIMIT_S - time.monotonic())))
            except Failed as error:
                failed[part.name] = error
                print(f"{error.output}\n{part.name}: {error}", file=sys.stderr, flush=True)
    if left_out:
        print(f"left out: {', '.join(left_out)}: first pip install {' '.join(sorted(missing))}", file=sys.stderr)
    print(
        f"\n{machine(device)}; {time.monotonic() - began:.0f} s\n\n| measured | setting | result |\n| --- | --- | --- |"
    )
    rows += [(name, "", f"**failed**: {error}") for name, error in failed.items()]
    print(*(f"| {' | '.join(row)} |" for row in rows), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
