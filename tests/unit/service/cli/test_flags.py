"""Errors of the command line name the flag that was wrong."""

import json
from pathlib import Path

import pytest
import typer

from service.cli.application import app
from service.cli.exits import Exit
from tests.unit.service.conftest import Run

GOOD = ["-n", "group", "-b", "2"]
WRONG: dict[str, list[str]] = {
    "--normalization": ["--normalization", "nope"],
    "--num-groups": ["--num-groups", "7"],
    "--channels-per-group": ["--channels-per-group", "0"],
    "--batch-size": ["--batch-size", "0"],
    "--num-workers": ["--num-workers", "-1"],
    "--model": ["--model", "nope"],
    "--recipe": ["--recipe", "nope"],
    "--epochs": ["--epochs", "0"],
    "--seed": ["--seed", "-1"],
    "--learning-rate": ["--learning-rate", "nan"],
    "--optimizer": ["--optimizer", "nope"],
    "--schedule": ["--schedule", "nope"],
    "--dataset": ["--dataset", "nope"],
    "--train-limit": ["--train-limit", "0"],
    "--test-limit": ["--test-limit", "0"],
    "--holdout": ["--holdout", "-1"],
    "--augmentation": ["--augmentation", "nope"],
    "--label-smoothing": ["--label-smoothing", "2"],
    "--ema": ["--ema", "2"],
    "--init-from": ["--init-from", "checkpoint_nope"],
    "--precision": ["--precision", "nope"],
    "--name": ["--name", "x" * 1000],
    "--label": ["--label", f"{'x' * 1000}=y"],
    "--priority": ["--priority", "99999"],
    "--max-retries": ["--max-retries", "-1"],
    "--idempotency-key": ["--idempotency-key", "x" * 1000],
}
NEVER_WRONG = {"--deterministic", "--watch", "--json", "--help"}


def test_every_flag_of_submit_is_tried() -> None:
    submit = typer.main.get_command(app).commands["submit"]  # type: ignore[attr-defined]
    flags = {max(one.opts, key=len) for one in submit.params if one.param_type_name == "option"}
    assert set(WRONG) == flags - NEVER_WRONG


@pytest.mark.parametrize("flag", WRONG)
def test_a_wrong_value_names_the_flag(lab: Run, flag: str) -> None:
    ended = lab("submit", *GOOD, *WRONG[flag])
    assert (ended.code, ended.out) == (Exit.INVALID, "")
    assert ended.err.startswith((f"normlab: {flag} is ", f"normlab: {flag}: ", f"normlab: {flag} has "))
    assert "/" not in ended.err.split(" ")[1]
    assert ended.err.count("\n") == 1


def test_what_a_file_says_keeps_its_place(lab: Run, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"normalization": {"type": "group", "num_groups": 7}, "batch_size": 0}))
    ended = lab("submit", str(file), "--batch-size", "-2", "--epochs", "0")
    assert {line.removeprefix("normlab: ").split(" ")[0] for line in ended.err.splitlines()} == {
        "--batch-size",
        "--epochs",
        "/normalization/num_groups:",
    }
    ended = lab("submit", str(file), "--batch-size", "2")
    assert ended.err.startswith("normlab: /normalization/num_groups: num_groups is 7, which does not divide the 16")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results", "--metric", "accuracy"], "--metric is 'accuracy'"),
        (["results", "--rows", "lr"], "--rows is 'lr'"),
        (["results", "--where", "lr=1"], "--where is 'lr:1': 'lr' is no quantity of a job"),
        (["results", "--rows", "seed", "--columns", "seed"], "--rows and --columns are both seed"),
        (["results", "--step", "3"], "--step and the --statistic at_step belong together"),
        (["results", "--failed", "maybe"], "--failed is 'maybe'"),
        (["results", "--confidence", "2"], "--confidence is '2.0'"),
        (["jobs", "--status", "done"], "--status is 'done'"),
        (["jobs", "--batch-size", "0"], "--batch-size is '0'"),
        (["jobs", "--search", "\udce9"], "--search is '\\udce9', which is not valid Unicode"),
        (["edit", "last", "--priority", "99999"], "--priority is 99999"),
        (["edit", "last", "--label", f"a={'x' * 1000}"], "--label"),
        (["extend", "last", "--epochs", "0"], "--epochs is 0"),
        (["experiment", "submit", "paper-batch-size", "--budget", "2", "--dry-run"], "--budget is 2"),
        (["experiment", "submit", "paper-batch-size", "--name", "x" * 1000], "--name"),
        (["experiment", "submit", "paper-batch-size", "--idempotency-key", "é"], "--idempotency-key has characters"),
    ],
)
def test_other_commands_too(lab: Run, arguments: list[str], sentence: str) -> None:
    if "last" in arguments:
        lab("submit", *GOOD)
    ended = lab(*arguments)
    assert ended.err.startswith(f"normlab: {sentence}")
    assert (ended.code, ended.out) == (Exit.INVALID, "")
