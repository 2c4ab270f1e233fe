"""The commands for links of an experiment, and names of who submitted, with the real API."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.cli.exits import Exit
from service.local.private_ray import free_port
from service.settings import Settings
from tests.unit.service.conftest import Run, serving


@pytest.fixture
def tokened(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line with the token of ada, at a service with tokens."""
    tokens = SecretStr("ada:open-sesame")
    monkeypatch.setenv("NORMLAB_TOKEN", "open-sesame")
    settings = Settings(home=tmp_path / "service", port=free_port(), api_tokens=tokens)
    with serving(settings) as url:
        yield lambda *arguments: run("--url", url, *arguments)


def test_a_link_is_printed_listed_and_revoked(tokened: Run) -> None:
    tokened("experiment", "submit", "paper-norms", "--budget", "0.01", "--seeds", "1")
    assert "BY" in tokened("experiment", "list").out
    assert "submitted by" in tokened("experiment", "show", "last").out
    assert tokened("jobs", "--submitted-by", "ada", "--json").json
    assert tokened("jobs", "--submitted-by", "bob", "--json").json == []
    link = tokened("experiment", "share", "last", "--anonymous", "--days", "2").out
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/experiments/experiment_\w+#share=share_[\w-]{43}\n", link)
    [listed] = tokened("experiment", "shares", "last", "--json").json
    assert (listed["anonymous"], listed["created_by"]) == (True, "ada")
    assert listed["id"] in tokened("experiment", "shares", "last").out
    assert tokened("experiment", "unshare", "last", listed["id"]).out == f"{listed['id']}  revoked\n"
    assert tokened("experiment", "shares", "last").out == "No links.\n"


def test_a_service_without_tokens_makes_no_link(lab: Run) -> None:
    lab("experiment", "submit", "paper-norms", "--budget", "0.01", "--seeds", "1")
    refused = lab("experiment", "share", "last")
    assert refused.code == Exit.REFUSED
    assert "set NORMLAB_API_TOKENS" in refused.err
