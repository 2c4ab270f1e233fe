"""The commands of the documents run in order against a whole service: `make test-readme`.

They run one after the other in the shell of somebody who has just run `make demo`: PATH does not have the environment
until a document activates it, and variables have the values that earlier commands gave them. Trainings are shortened:
`LESS` lists options that are added to commands. `NOT_HERE` has reasons why commands are not run.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import Client
from tests.documents import DOCUMENTS, ROOT, blocks, commands, read

pytestmark = [pytest.mark.readme, pytest.mark.ray]

EXPERIMENTS = "service/experiments/README.md"
WORKER = "worker/README.md"
READ = ("README.md", EXPERIMENTS, "service/README.md", WORKER, "CONTRIBUTING.md")
"""The order matters: the service's manual exports the experiment that the manual of experiments submits."""
NOT_RUN = {
    "docker/README.md": "needs a container engine or several machines: make test-containers, make test-network",
}
NOT_HERE = {
    r"make \w+": "installs, or runs all of this: tests/unit/test_documentation.py sees that the target exists",
    r"\.venv/bin/python -m pytest": "runs tests, as this one is run",
    r"docker compose": "needs a container engine: make test-containers",
    r"normlab up\b": "is what the test started",
    r"normlab experiment extend": "is for seeds that are not sequential: tests/unit/service/cli/test_experiments.py",
    r"normlab results \$ID --stage untuned": "is for a tuned experiment: tests/unit/service/cli/test_tuning.py",
    r"normlab submit .*--num-groups 32": "is refused, as it says: tests/unit/service/cli/test_cli.py",
}
SMALL = "--dataset synthetic --train-limit 32 --test-limit 32 --epochs 1"
LESS = {
    "normlab submit --normalization": SMALL,
    "normlab experiment submit paper-batch-size": "--dry-run",
    "normlab experiment submit zoo": "--dry-run",
}
TINY = {"dataset": {"name": "synthetic", "train_limit": 96, "test_limit": 32}, "epochs": 1}
LARGER = '"epochs": 1, "dataset": {"train_limit": 1000}}'
"""What the document shows where `TINY` is trained."""
CODES = {"normlab doctor": {0, 1}}
"""Accepted exit codes besides 0: `normlab doctor` fails on a machine without CIFAR-10."""


def all_commands() -> list[tuple[str, str]]:
    """Return the commands of all documents with the name of the document, in reading order."""
    return [(name, command) for name in READ for command in commands(read(name))]


def runs_here(command: str) -> bool:
    return not any(re.search(rf"(^|\s){reason}", command) for reason in NOT_HERE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a service with an empty home folder, and a working folder."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "NORMLAB_HOME": str(home)}
    command = [sys.executable, "-m", "service.cli", "up", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        try:
            assert up.stdout is not None
            url = next(found[0] for line in up.stdout if (found := re.search(r"http://127[\d.:]+", line)))
            yield url, tmp_path_factory.mktemp("work")
        finally:
            up.send_signal(signal.SIGINT)
            up.stdout.read()  # type: ignore[union-attr]


def test_every_command_does_what_it_says(service: tuple[str, Path]) -> None:
    url, work = service
    (work / "two-norms.yaml").write_text(shown_experiment())
    (work / "job.json").write_text(shown_job())
    failed = []
    for document, command in all_commands():
        if not runs_here(command):
            continue
        with Client(url, retry_s=120) as client:
            asked = concrete(document, command, client, url)
        try:
            done = shell(asked, work, url)
        except subprocess.TimeoutExpired as late:
            failed.append(f"{asked}\n  did not end: {late.stdout!r}")
            continue
        if done.returncode not in CODES.get(command, {0}):
            failed.append(f"{asked}\n  ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        elif asked.startswith("curl") and '"status":4' in done.stdout:
            failed.append(f"{asked}\n  was refused: {done.stdout[:500]}")
    assert not failed, "\n".join(failed)


def shell(command: str, work: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the variables that the commands before it have left."""
    if not (work / ".venv").exists():
        (work / ".venv").symlink_to(sys.prefix)
    script = 'set -a; [ -e .state ] && . ./.state; eval "$1"; code=$?; export -p > .state; exit $code'
    return subprocess.run(
        ["bash", "-c", script, "bash", command],
        cwd=work,
        env={**os.environ, "NORMLAB_URL": url, "PATH": path_without_normlab()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def path_without_normlab() -> str:
    """Return PATH without the folders of this environment and of every other one that has the command."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not (Path(folder) / "normlab").exists())


def shown_experiment() -> str:
    """Return the experiment of the manual, on few images."""
    [shown] = blocks(read(EXPERIMENTS), "yaml")
    small = shown.replace("base: {", f"base: {{{json.dumps(TINY)[1:-1]}, ")
    return small.replace("max: 10", "max: 4").replace("[2, 8, 32]", "[8, 32]").replace("budget: 0.1 ", "budget: 1.0 ")


def shown_job() -> str:
    """Return the job of the manual, on few images."""
    [shown] = blocks(read(WORKER), "json")
    return json.dumps(json.loads(shown) | TINY)


def concrete(document: str, command: str, client: Client, url: str) -> str:
    """Return a command of a document with the ids that earlier commands created, and with a shorter training."""
    for beginning, more in LESS.items():
        if command.startswith(beginning):
            command = f"{command} {more}"
    command = command.replace("localhost:8000", url.removeprefix("http://"))
    command = command.replace(LARGER, json.dumps(TINY)[1:])
    if document == "README.md":
        return command  # Its variables are set by its own commands.
    if "$CHECKPOINT" in command:
        command = command.replace("$CHECKPOINT", checkpoint(client))
    of_an_experiment = re.search("experiment|results|export", command)
    if "$ID" in command:
        newest = next(client.experiments.list() if of_an_experiment else client.jobs())
        for job in list(client.jobs(experiment=newest["id"])) if of_an_experiment else [newest]:
            client.wait(job["id"], timeout_s=120)
        command = command.replace("$ID", shlex.quote(newest["id"]))
    return command


def checkpoint(client: Client) -> str:
    """Return the best checkpoint of the newest job, after it has ended."""
    job = next(client.jobs())["id"]
    client.wait(job, timeout_s=120)
    return str(client.checkpoint((job, "best"))["id"])


def test_what_is_not_run_here_has_a_reason() -> None:
    with_commands = {str(path.relative_to(ROOT)) for path in DOCUMENTS if commands(path.read_text())}
    assert with_commands == {*READ, *NOT_RUN}
    for reason in NOT_HERE:
        assert any(re.search(rf"(^|\s){reason}", command) for _, command in all_commands()), reason
    ran = [command for _, command in all_commands() if runs_here(command)]
    assert len(ran) >= 25
    known = ("normlab ", "curl ", "python -m worker ", "source .venv/bin/activate", "JOB=", "ID=", "CHECKPOINT=")
    assert all(command.startswith(known) for command in ran), ran
