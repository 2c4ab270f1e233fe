"""The README's commands, in order, against a whole service that a test starts: `make test-readme`.

What would take long trains little: `LESS` says what is added to a command, and `NOT_HERE` why one is not run.
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

pytestmark = [pytest.mark.readme, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NOT_HERE = {
    r"make \w+": "installs, or runs all of this: tests/unit/test_documentation.py sees that the target exists",
    r"docker compose|podman": "needs a container engine: make test-containers",
    r"export NORMLAB_TOKEN": "is of the containers' secrets",
    r"kubectl|ray (start|stop)|cat |openssl|ssh ": "is of several machines: make test-containers, make test-network",
    r"normlab up\b": "is what the test started",
    r"normlab experiment extend": "is for seeds that are not sequential: tests/unit/service/cli/test_experiments.py",
    r"normlab submit .*--num-groups 32": "is refused, as it says: tests/unit/service/cli/test_cli.py",
}
SMALL = "--dataset synthetic --train-limit 32 --test-limit 32 --epochs 1"
LESS = {
    "normlab submit --normalization": SMALL,
    "normlab experiment submit paper-batch-size": "--dry-run",
}
TINY = {"dataset": {"name": "synthetic", "train_limit": 96, "test_limit": 32}, "epochs": 1}
CODES = {"normlab doctor": {0, 1}}
"""Exit codes besides 0: a machine without CIFAR-10 may be told so."""


def commands() -> list[str]:
    """The commands of all console blocks, without their remarks."""
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s{2,}#.*", "", line[2:]).strip() for line in lines if line.startswith("$ ")]


def runs_here(command: str) -> bool:
    return not any(re.search(rf"(^|\s){reason}", command) for reason in NOT_HERE)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a whole service on an empty home, and a folder to work in."""
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
    (work / "two-norms.yaml").write_text(yaml_of_the_readme())
    failed = []
    for command in filter(runs_here, commands()):
        with Client(url, retry_s=30) as client:
            asked = concrete(command, client, url)
        environment = {**os.environ, "NORMLAB_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        try:
            done = subprocess.run(
                asked, shell=True, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired as late:
            failed.append(f"{asked}\n  did not end: {late.stdout!r}")
            continue
        if done.returncode not in CODES.get(command, {0}):
            failed.append(f"{asked}\n  ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        elif asked.startswith("curl") and '"status":4' in done.stdout:
            failed.append(f"{asked}\n  was refused: {done.stdout[:500]}")
    assert not failed, "\n".join(failed)


def yaml_of_the_readme() -> str:
    """The experiment that the README shows, on few images."""
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    small = found[1].replace("base: {", f"base: {{{json.dumps(TINY)[1:-1]}, ")
    return small.replace("max: 10", "max: 4").replace("[2, 8, 32]", "[8, 32]").replace("budget: 0.1 ", "budget: 1.0 ")


def concrete(command: str, client: Client, url: str) -> str:
    """A command with the ids of what the commands before it have made, and with less to train."""
    for beginning, more in LESS.items():
        if command.startswith(beginning):
            command = f"{command} {more}"
    command = command.replace("localhost:8000", url.removeprefix("http://"))
    command = command.replace('"batch_size": 2}', f'"batch_size": 2, {json.dumps(TINY)[1:-1]}}}')
    if "$CHECKPOINT" in command:
        command = command.replace("$CHECKPOINT", checkpoint(client))
    of_an_experiment = re.search("experiment|results|export", command)
    if "$ID" in command:
        newest = next(client.experiments() if of_an_experiment else client.jobs())
        for job in list(client.jobs(experiment=newest["id"])) if of_an_experiment else [newest]:
            client.wait(job["id"], timeout_s=120)
        command = command.replace("$ID", shlex.quote(newest["id"]))
    return command


def checkpoint(client: Client) -> str:
    """The best checkpoint of the newest job, once that has ended."""
    job = next(client.jobs())["id"]
    client.wait(job, timeout_s=120)
    return str(client.checkpoint((job, "best"))["id"])


def test_what_is_not_run_here_has_a_reason() -> None:
    left_out = [command for command in commands() if not runs_here(command)]
    assert all(any(re.search(rf"(^|\s){kind}", command) for kind in NOT_HERE) for command in left_out)
    ran = [command for command in commands() if runs_here(command)]
    assert len(ran) >= 20
    assert all(command.startswith(("normlab ", "curl ")) for command in ran), ran
