"""The jobs of a disconnected machine continue on another one, and its late reports change nothing.

Each machine is a network namespace, whose link the tests can take down. Run as root: `make test-network`.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.jobs import Status
from service.store import Database, attempts
from service.store.attempts import Fenced
from service.store.migrate import upgrade
from tests.integration.dispatcher.conftest import SMALL, Stack, descendants, kill
from worker.events import Metrics

pytestmark = [pytest.mark.anyio, pytest.mark.netns]

HEAD, NODE = "10.77.0.1", "10.77.0.2"
PORT = 6379
LEASE_S = 3
AWAY_S = 20
"""Seconds; longer than the lease and than the dispatcher's timeout of a request."""
STUDY = {"precision": "float32", "epochs": 30, "checkpoint": {"every_epochs": 2}, "dataset": SMALL}
EPOCHS, STEPS_PER_EPOCH = 30, 8


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass(frozen=True)
class Host:
    """A machine: a namespace with one address, and the name of its network interface."""

    namespace: str
    link: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def ray(self, *arguments: str) -> list[str]:
        common = ["--block", f"--node-ip-address={self.address}", "--num-cpus=1", "--object-store-memory=300000000"]
        return self.command(sys.executable, "-m", "ray.scripts.scripts", "start", *common, *arguments)

    def cut(self) -> None:
        """Disconnect the machine."""
        ip("-n", self.namespace, "link", "set", self.link, "down")

    def plug_in(self) -> None:
        """Reconnect the machine."""
        ip("-n", self.namespace, "link", "set", self.link, "up")

    def runs(self, pid: int) -> bool:
        """Return whether a process runs on this machine."""
        own = Path(f"/run/netns/{self.namespace}").stat().st_ino
        return Path(f"/proc/{pid}/ns/net").stat().st_ino == own


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two machines that are connected by a link."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        # This test was requested explicitly, so skipping it would hide that nothing was tested.
        pytest.fail("network namespaces need root and iproute2 (apt-get install iproute2)", pytrace=False)
    number = os.getpid()
    head, node = Host(f"head{number}", f"h{number}", HEAD), Host(f"node{number}", f"n{number}", NODE)
    probe = subprocess.run(["ip", "netns", "add", head.namespace], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.fail(
            f"this machine cannot create network namespaces ({probe.stderr.strip()}): it needs CAP_SYS_ADMIN",
            pytrace=False,
        )
    try:
        ip("netns", "add", node.namespace)
        ip(
            "link",
            "add",
            head.link,
            "netns",
            head.namespace,
            "type",
            "veth",
            "peer",
            node.link,
            "netns",
            node.namespace,
        )
        for host in (head, node):
            ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.link)
            for link in ("lo", host.link):
                ip("-n", host.namespace, "link", "set", link, "up")
        yield head, node
    finally:
        for host in (head, node):
            subprocess.run(["ip", "netns", "delete", host.namespace], check=False)


class Machines(Stack):
    """A service whose dispatcher runs on the first of two machines."""

    def __init__(self, hosts: tuple[Host, Host], environment: dict[str, str], home: Path, database: Database) -> None:
        super().__init__(environment, home, database, undisturbed={})
        self.first, self.second = hosts

    def start_dispatcher(self) -> "subprocess.Popen[bytes]":
        command = self.first.command(sys.executable, "-m", "service.dispatcher")
        with (self.home / f"dispatcher-{len(self.dispatchers)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment, stderr=log)
        self.dispatchers.append(process)
        return process


@pytest.fixture
async def machines(hosts: tuple[Host, Host], tmp_path: Path) -> AsyncIterator[Machines]:
    """Ray on both machines, and the dispatcher on the first."""
    head, node = hosts
    url = f"sqlite+aiosqlite:///{tmp_path / 'normlab.db'}"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 40}
    environment |= {
        "NORMLAB_RAY_ADDRESS": f"{HEAD}:{PORT}",
        "NORMLAB_HOME": str(tmp_path),
        "NORMLAB_DATABASE_URL": url,
        "NORMLAB_DATA_DIR": str(tmp_path / "data"),
        "NORMLAB_WORKER_LEASE_S": str(LEASE_S),
        "NORMLAB_DISPATCHER_LEASE_S": "2",
        "NORMLAB_WARM_WORKERS": "2",
    }
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        with (tmp_path / "ray.log").open("wb") as log:
            first = head.ray("--head", f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false",
                             "--disable-usage-stats")  # fmt: skip
            rays = [subprocess.Popen(first, env=environment, stdout=log, stderr=log, start_new_session=True)]
            environment["RAY_HEAD_PID"] = str(rays[0].pid)
            rays.append(
                subprocess.Popen(
                    node.ray(f"--address={HEAD}:{PORT}"),
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        try:
            async with Database(url) as database:
                await upgrade(database)
                stack = Machines(hosts, environment, tmp_path, database)
                stack.start_dispatcher()
                try:
                    yield stack
                finally:
                    stack.stop()
        finally:
            for ray in rays:
                for member in descendants(ray.pid):
                    kill(member)
                ray.wait()


async def test_a_machine_that_was_cut_off_changes_nothing_when_it_is_back(machines: Machines) -> None:
    jobs = [await machines.submit(**STUDY) for _ in range(2)]
    for job_id in jobs:
        await machines.wait_for_step(job_id, 3 * STEPS_PER_EPOCH)
    workers = {job_id: await machines.training_process(job_id) for job_id in jobs}
    (moved,) = [job_id for job_id, pid in workers.items() if machines.second.runs(pid)]
    (stayed,) = [job_id for job_id, pid in workers.items() if machines.first.runs(pid)]

    machines.second.cut()
    cut_off = asyncio.get_running_loop().time()
    await machines.wait(stayed, Status.SUCCEEDED)

    async def elsewhere() -> Any:
        found = await machines.attempts(moved)
        return found if len(found) == 2 else None

    lost, _ = await machines.until(elsewhere, "the attempt to go elsewhere")
    assert lost.outcome == "lost"
    await asyncio.sleep(max(0.0, AWAY_S - (asyncio.get_running_loop().time() - cut_off)))
    machines.second.plug_in()
    job = await machines.wait(moved)

    assert (job.status, job.attempts, job.failures) == (Status.SUCCEEDED, 2, 0)
    late = Metrics(
        kind="eval", epoch=EPOCHS, step=EPOCHS * STEPS_PER_EPOCH, values={"test_error": 0.0}, seq=lost.last_seq + 1
    )
    with pytest.raises(Fenced):
        async with machines.database.write() as session:
            await attempts.record(session, lost.id, [late], {})
    # A new dispatcher finds the reports of the lost attempt on this machine, and discards them.
    machines.dispatchers[0].kill()
    machines.dispatchers[0].wait()
    machines.start_dispatcher()
    after = await machines.submit(epochs=1)
    await machines.wait(after)

    assert await machines.history(moved) == [
        "queued", "starting", "running", "lost", "queued", "starting", "running", "succeeded",
    ]  # fmt: skip
    live = Counter((row.kind, row.step) for row in await machines.rows(moved))
    assert set(live.values()) == {1}
    assert [row.epoch for row in await machines.rows(moved, kind="eval")] == list(range(1, EPOCHS + 1))
    # The other job had the same specification and was not disturbed.
    assert await machines.weights(moved) == await machines.weights(stayed)
    assert (await machines.attempts(moved))[1].resumed_from_step >= 2 * STEPS_PER_EPOCH


async def test_a_job_on_two_machines_talks_over_the_network_between_them(machines: Machines) -> None:
    job_id = await machines.submit(num_workers=2, batch_size=16, epochs=20)
    await machines.wait_for_step(job_id, 3)
    pids = await machines.training_processes(job_id)
    assert {machines.first.runs(pid) for pid in pids} == {True, False}
    job = await machines.wait(job_id)

    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert [row.epoch for row in await machines.rows(job_id, kind="eval")] == list(range(1, 21))
