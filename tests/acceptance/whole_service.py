"""The whole service as a user starts it: the supervisor with its private Ray, the dispatcher and the API."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.client import Client
from service.local.supervisor import Supervisor
from service.settings import Settings

PATIENCE_S = 180


class Service:
    """A running service with a client."""

    def __init__(self, supervisor: Supervisor, client: Client, home: Path) -> None:
        self.supervisor, self.client, self.home = supervisor, client, home

    def kill(self, name: str) -> None:
        """Kill a process of the service by SIGKILL, and return when it has been replaced."""
        killed = self.supervisor.pids[name]
        os.kill(killed, signal.SIGKILL)
        self.until(lambda: self.supervisor.pids.get(name, killed) != killed, f"another {name}")

    def worker_pid(self, job: str) -> int:
        """Return the process that trains `job`."""
        pid: int = self.until(
            lambda: next((w["pid"] for w in self.client.cluster()["workers"] if w["job"] == job and w["pid"]), None),
            f"the worker of {job}",
        )
        return pid

    def wait_for_step(self, job: str, step: int) -> dict[str, Any]:
        """Return the job when it has reached `step`."""

        def there() -> dict[str, Any] | None:
            found = self.client.job(job)
            assert found["status"] not in ("succeeded", "failed", "cancelled"), f"{found['status']}: {found['error']}"
            return found if (found["progress"] or {}).get("step", 0) >= step else None

        found: dict[str, Any] = self.until(there, f"{job} to reach step {step}")
        return found

    def until(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Poll until the result is not None; not everything that tests wait for has an event."""
        deadline = time.monotonic() + patience_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"timed out waiting for {what}"
            time.sleep(0.05)
        return found

    def rows(self, job: str) -> Counter[tuple[str, int]]:
        """Return how many rows of metrics a job has, by kind and step."""
        return Counter((row["kind"], row["step"]) for row in self.client.metrics(job))

    def checkpoint_step(self, job: str) -> int:
        """Return the step of the newest checkpoint of a job."""
        step: int = self.client.checkpoint((job, "latest"))["step"]
        return step

    def weights(self, job: str) -> str:
        """Return the sha256 of the final weights of a job."""
        files = {file["name"]: file for file in self.client.checkpoint((job, "latest"))["files"]}
        digest: str = files["model.safetensors"]["sha256"]
        return digest


@contextmanager
def running_service(home: Path, **settings: Any) -> Iterator[Service]:
    """Run a service with its data in `home`, on a free port, until the end of the block."""
    data_dir = os.environ.get("NORMLAB_DATA_DIR") or str(home / "data")
    defaults: dict[str, Any] = {"home": home, "data_dir": data_dir, "port": 0, "dispatcher_lease_s": 2}
    with Supervisor(Settings(**(defaults | settings))) as supervisor:
        supervisor.wait_ready()
        with Client(supervisor.url, patience_s=PATIENCE_S, retry_s=PATIENCE_S) as client:
            yield Service(supervisor, client, home)
