"""What the README names is there, and what is there the README names."""

import re
import subprocess
from pathlib import Path

import yaml

from service.experiments.request import ExperimentRequest, expand

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FOLDERS = {"gn", "worker", "service", "docker", "tests"}


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b(?= *(?:#|`|$))", README, re.MULTILINE))
    assert {"demo", "test"} <= named
    described = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert named <= set(re.findall(r"^ +make ([a-z]+) ", described, re.MULTILINE))


def test_the_first_picture_names_the_folders_at_the_top() -> None:
    picture = next(block for block in README.split("```") if block.startswith("\ngn/"))
    assert set(re.findall(r"^([a-z]+)/", picture, re.MULTILINE)) == FOLDERS
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def test_the_experiment_that_is_shown_can_be_submitted() -> None:
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
    request = ExperimentRequest.model_validate(shown).resolved()
    assert len(expand(request)) == 2 * 3 * 3


def test_the_lock_names_versions_and_no_place() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), lines
    assert "torch==2.13.0" in lines
    assert len({line.partition("==")[0] for line in lines}) == len(lines)
