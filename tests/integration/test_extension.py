"""The examples of the manuals work: adding a normalization, and loading weights."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from service.client import Client
from service.store import Database, migrate
from tests.documents import ROOT, blocks, read, section
from worker.models import build_model
from worker.normalizations.group import GroupNormalization

MANUAL = read("worker/README.md")
FILE = "worker/normalizations/pixel.py"
TEST = "tests/unit/worker/normalizations/test_pixel.py"
JOB = {
    "normalization": {"type": "pixel"},
    "batch_size": 8,
    "epochs": 1,
    "dataset": {"name": "synthetic", "train_limit": 10, "test_limit": 10},
}


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command on the code of `tree`."""
    return subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the file and the test of the manual."""
    tree = tmp_path_factory.mktemp("extended")
    for package in ("gn", "worker", "service", "tests/unit/worker/normalizations"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in zip((FILE, TEST), blocks(section(MANUAL, "Add a normalization"), "python"), strict=True):
        (tree / name).write_text(content)
    return tree


def test_the_new_normalization_is_one_short_file(extended: Path) -> None:
    lines = [line for line in (extended / FILE).read_text().splitlines() if line.strip()]
    assert len(lines) <= 25


def test_the_new_normalization_has_a_test_and_passes_those_of_every_one(extended: Path) -> None:
    tests = [
        TEST,
        *(f"tests/unit/worker/normalizations/test_{name}.py" for name in ("every_normalization", "registry")),
    ]
    done = run(
        extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", "pixel", *tests
    )
    assert done.returncode == 0, done.stdout
    assert (int(re.findall(r"(\d+) passed", done.stdout)[0])) > 10


def test_the_new_normalization_trains(extended: Path) -> None:
    (extended / "job.json").write_text(json.dumps(JOB))
    done = run(extended, "-m", "worker", "job.json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, events[-1]["type"], events[-1]["outcome"]) == (0, "finished", "succeeded"), done.stderr
    assert 0 <= next(event["values"]["test_error"] for event in events if event.get("kind") == "eval") <= 1


def test_the_new_normalization_is_submitted_and_offered(extended: Path, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/normlab.db"

    async def migrated() -> None:
        async with Database(url) as database:
            await migrate.upgrade(database)

    asyncio.run(migrated())
    environment = {
        "NORMLAB_HOME": str(tmp_path),
        "NORMLAB_DATABASE_URL": url,
        "NORMLAB_PORT": "0",
        "HOME": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "service.app"], cwd=extended, env=environment, stderr=subprocess.PIPE, text=True
    ) as api:
        try:
            assert api.stderr is not None
            address = next(found[0] for line in api.stderr if (found := re.search(r"http://[\d.:]+", line)))
            submitted = run(
                extended, "-m", "service.cli", "--url", address, "submit", "-n", "pixel", "-b", "8", "--json"
            )
            assert submitted.returncode == 0, submitted.stderr
            assert json.loads(submitted.stdout)["spec"]["normalization"] == {"type": "pixel", "eps": 1e-8}
            with Client(address) as client:
                offered = {entry["type"]: entry for entry in client.specification()["normalizations"]}
                grid = {"normalization": [{"type": "pixel"}, {"type": "group"}], "batch_size": [8]}
                assert client.experiments.dry_run({"name": "two", "grid": grid})["jobs"]
            assert "root mean square" in offered["pixel"]["description"]
            assert offered["pixel"]["needs"] == "Needs nothing: each pixel is normalized by itself."
        finally:
            api.terminate()


def test_weights_load_into_plain_torch_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = build_model("resnet20", GroupNormalization(num_groups=8), seed=7)
    save_file(
        {name: value.contiguous() for name, value in trained.state_dict().items()}, tmp_path / "model.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.nn.Module] = {}
    [shown] = blocks(section(read("service/README.md"), "Exports"), "python")
    exec(compile(shown, "service/README.md", "exec"), names)
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(names["network"].eval()(images), trained.eval()(images))
