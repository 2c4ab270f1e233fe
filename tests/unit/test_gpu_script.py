"""The program of `make test-gpu` runs on the CPU, on a machine with torch, without Ray and the service's packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as program
from tests.gpu.__main__ import Part

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "fastapi", "sqlalchemy", "scipy", "hypothesis", "typer", "psutil", "pytest_postgresql", "anyio")
"""Packages of this project that a machine with torch need not have."""


def run(*absent: str, folder: Path, device: str = "cpu") -> "subprocess.CompletedProcess[str]":
    """Run the program where some packages cannot be imported."""
    for package in absent:
        (folder / f"{package}.py").write_text(f"raise ImportError('{package} is absent')\n")
    search = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu", "--device", device],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_runs_without_ray_and_fills_its_rows(tmp_path: Path) -> None:
    ended = run(*ABSENT, folder=tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert "left out" not in ended.stderr
    heading, *table = ended.stdout.strip().splitlines()[2:]
    assert heading == "| measured | setting | result |"
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table[1:]]
    assert {len(row) for row in rows} == {3}
    assert [row[0] for row in rows] == [
        "tests on the device",
        "tests on the device",
        "steps a second",
        *["GN+ReLU, both passes, launched from Python"] * 3,
        "step ÷ that without normalization",
    ]
    results = [row[2] for row in rows]
    assert re.fullmatch(r"\d+ skipped, \d+ deselected", results[0])
    assert re.fullmatch(r"\d+ skipped", results[1])
    assert re.fullmatch(r"eager \d+", results[2])
    assert "of a copy's bandwidth; ÷ gn: torch" in results[3]
    assert "group by torch" in results[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_missing_is_an_error(tmp_path: Path) -> None:
    ended = run(folder=tmp_path, device="cuda")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"error: torch {torch.__version__} finds no GPU" in ended.stderr


def part(name: str, code: str, limit_s: float = 60.0, needs: tuple[str, ...] = ()) -> Part:
    return Part(name, ["-c", code], limit_s, lambda output: [("measured", name, output.strip())], needs)


def main(monkeypatch: pytest.MonkeyPatch, *parts: Part) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    monkeypatch.setattr(program, "parts", lambda device, folder: list(parts))
    return program.main()


def test_a_part_that_fails_or_hangs_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = part("broken", "import sys; sys.exit('device-side assert')")
    hanging = part("hanging", "import time; print('begun', flush=True); time.sleep(60)", limit_s=0.5)
    status = main(monkeypatch, broken, hanging, part("whole", "print(7)"))

    assert status == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-3:] == [
        "| measured | whole | 7 |",
        "| broken |  | **failed**: exit status 1, device-side assert |",
        "| hanging |  | **failed**: not done after 0.5 s |",
    ]
    assert "begun" in err, "what it printed before is lost"


def test_what_lacks_a_package_is_left_out_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = part("training", "", needs=("torch", "no_such_b", "no_such_a"))

    assert main(monkeypatch, lacking, part("kernels", "print(7)")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "| measured | kernels | 7 |"
    assert "left out: training: first pip install no_such_a no_such_b" in err


def test_all_parts_together_take_less_than_ten_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.LIMIT_S < 600
    monkeypatch.setattr(program, "LIMIT_S", 0.0)
    hanging = part("hanging", "import time; time.sleep(60)")

    assert main(monkeypatch, hanging) == 1
    assert "| hanging |  | **failed**: not done after 1.0 s |" in capsys.readouterr().out


def test_every_part_on_a_gpu_has_a_file_of_its_own(tmp_path: Path) -> None:
    parts = program.parts("cuda", tmp_path)
    files = [part.command[-1] for part in parts if "--json" in part.command]
    assert len(set(files)) == len(files) == 5
