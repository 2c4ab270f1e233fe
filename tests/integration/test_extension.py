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
from worker.spec import GroupNormalization

MANUAL = read("worker/README.md")
PATCHED = ["worker/spec.py", "worker/normalizations/layers.py"]
JOB = {
    "normalization": {"type": "rms"},
    "batch_size": 8,
    "epochs": 1,
    "dataset": {"name": "synthetic", "train_limit": 10, "test_limit": 10},
}


def patch() -> str:
    """Return the patch of the manual, a diff whose hunks are located by their text."""
    [found] = blocks(section(MANUAL, "Add a normalization"), "diff")
    return found


def apply(patch: str, tree: Path) -> None:
    """Apply a patch to a tree. Each hunk must match exactly one place of its file."""
    for part in re.split(r"^--- ", patch, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split(r"\n@@\n", part.rstrip("\n"))
        text = (tree / name).read_text()
        for hunk in hunks:
            lines = hunk.splitlines()
            before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-"))
            after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+"))
            assert before, f"a hunk of {name} has no context"
            assert f"\n{text}".count(f"\n{before}") == 1, f"{name} does not contain this exactly once:\n{before}"
            text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
        (tree / name).write_text(text)


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command on the code of `tree`."""
    return subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the patch of the manual."""
    tree = tmp_path_factory.mktemp("extended")
    for package in ("gn", "worker", "service"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    apply(patch(), tree)
    return tree


def test_the_patch_is_of_some_twenty_lines_in_two_files() -> None:
    added = [line for line in patch().splitlines() if re.match(r"\+\s*\S", line)]
    assert len(added) <= 25
    assert re.findall(r"^--- (.*)$", patch(), re.MULTILINE) == PATCHED


def test_a_patch_is_refused_where_its_place_is_gone_or_not_the_only_one(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    for text in ("a\nb\n", "x\na\nx\n", "  x\n", ""):
        file.write_text(text)
        with pytest.raises(AssertionError, match="does not contain this exactly once"):
            apply("--- file.py\n@@\n x\n+y\n", tmp_path)
    file.write_text("a\nx\n\nb\n")
    apply("--- file.py\n@@\n-a\n+c\n x\n+\n+y\n@@\n+z\n b\n", tmp_path)
    assert file.read_text() == "c\nx\n\ny\n\nz\nb\n"


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
            submitted = run(extended, "-m", "service.cli", "--url", address, "submit", "-n", "rms", "-b", "8", "--json")
            assert submitted.returncode == 0, submitted.stderr
            assert json.loads(submitted.stdout)["spec"]["normalization"] == {"type": "rms", "eps": 1e-5}
            with Client(address) as client:
                offered = {entry["type"]: entry for entry in client.specification()["normalizations"]}
                grid = {"normalization": [{"type": "rms"}, {"type": "group"}], "batch_size": [8]}
                assert client.experiments.dry_run({"name": "two", "grid": grid})["jobs"]
            assert "root mean square" in offered["rms"]["description"]
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
