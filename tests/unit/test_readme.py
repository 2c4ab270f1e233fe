"""The README says what is so."""

from pathlib import Path

import pytest

from service.cli.exits import Exit
from service.experiments.confounds import CODES
from service.experiments.statistics import plan_looks
from service.settings import PREFIX, Settings

README = Path(__file__).parents[2].joinpath("README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default is None else f"`{field.default}`"
    assert f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |" in README


def test_no_setting_is_documented_that_does_not_exist() -> None:
    rows = [line.split("`")[1] for line in README.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert sorted(rows) == sorted(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_documented(code: Exit) -> None:
    codes = README.partition("Exit codes:")[2].partition("\n\n")[0]
    assert any(word == str(int(code)) for word in codes.replace(";", " ").split())


@pytest.mark.parametrize("code", CODES)
def test_every_warning_is_documented_with_its_meaning(code: str) -> None:
    assert f"| `{code}` | {CODES[code]} |" in README


def test_the_looks_that_are_named_are_those_that_are_planned() -> None:
    assert '"seeds": {"min": 3, "max": 10}` looks after 3, 5 and 10 seeds' in README
    assert plan_looks(3, 10) == (3, 5, 10)
