"""What the service prints once it is ready: its address, and commands that work as they are printed."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from pydantic import SecretStr

from service.cli.output import command_name
from service.cli.welcome import first_steps
from service.local.supervisor import Supervisor
from service.settings import Settings
from tests.unit.service.stand_in import Answer, Json, running


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command in the virtual environment of a checkout, which is the current folder."""
    checkout = tmp_path / "check out"
    program = checkout / ".venv/bin/normlab"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nonexistent")
    return program


class TestCommandName:
    def test_is_a_path_from_the_current_folder(self, program: Path) -> None:
        assert command_name() == ".venv/bin/normlab"

    def test_is_an_absolute_path_elsewhere(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        monkeypatch.setattr(Path, "cwd", lambda: Path("/usr"))
        assert command_name() == f"'{program}'"

    def test_is_the_name_in_an_activated_environment(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(program.parent))
        assert command_name() == "normlab"

    def test_is_a_path_where_the_name_is_another_program(
        self, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "normlab").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert command_name() == ".venv/bin/normlab"


@pytest.mark.parametrize("stored", [[], [{"id": "experiment_1"}]])
def test_an_empty_service_offers_the_example_and_the_demo(tmp_path: Path, stored: list[Json]) -> None:
    settings = Settings(home=tmp_path, api_tokens=SecretStr("me:may-write"))
    with running() as service:
        service.on("GET", "/v1/experiments", Answer({"data": stored, "next_cursor": None}))
        steps = first_steps(cast(Supervisor, SimpleNamespace(url=service.url)), settings)
        assert service.requests[-1].headers["authorization"] == "Bearer may-write"

    assert steps.splitlines() == (
        []
        if stored
        else [
            "`normlab experiment import --example` adds a finished study.",
            "`normlab demo` trains for a few minutes.",
        ]
    )
