"""docker-compose.yml as a user runs it, with a separate project name and port."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.client import Client
from service.client.errors import ApiError, ConnectionFailed
from service.local.private_ray import free_port

ROOT = Path(__file__).parents[2]
BUILD_S, COMMAND_S, PATIENCE_S = 1800, 240, 300


def engine() -> tuple[str, tuple[str, ...]] | None:
    """Return the commands of the container engine and of compose, or None if neither is installed."""
    for program, compose in (("docker", ("docker", "compose")), ("podman", ("podman-compose",))):
        if all(map(shutil.which, (program, compose[0]))) and all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in ((program, "info"), (*compose, "version"))
        ):
            return program, compose
    return None


class Stack:
    """The services of docker-compose.yml, with a client on the host."""

    def __init__(self, program: str, compose: tuple[str, ...]) -> None:
        self._program, self._compose = program, compose
        self.project = f"normlab-test-{secrets.token_hex(3)}"
        self.port = free_port()
        # One slot per worker, so that the number of workers limits the number of parallel trainings.
        self._environment = os.environ | {"NORMLAB_PORT": str(self.port), "RAY_WORKER_CPUS": "1"}

    def compose(self, *arguments: str, given: bytes | None = None, timeout_s: float = COMMAND_S) -> bytes:
        """Run `docker compose ARGUMENTS` and return its output."""
        return self._run((*self._compose, "-p", self.project, *arguments), given, timeout_s)

    def engine(self, *arguments: str) -> str:
        """Run `docker ARGUMENTS` and return its output."""
        return self._run((self._program, *arguments), None, COMMAND_S).decode()

    def up(self, *options: str) -> None:
        """Start all stopped containers, and wait until the service is ready."""
        self.compose("up", "-d", *options)
        self.wait_ready()

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers, including stopped ones."""
        labels = {"project": self.project, "service": service}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return self.engine("ps", "-aq", *filters).split()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return the engine's description of a service's only container."""
        [container] = self.containers(service)
        [found] = json.loads(self.engine("inspect", container))
        return dict(found)

    def stop(self, service: str) -> None:
        """Stop every container of a service, by the signal that it expects."""
        self.engine("stop", *self.containers(service))

    def start(self, service: str) -> None:
        """Start every stopped container of a service."""
        self.engine("start", *self.containers(service))

    def kill(self, service: str) -> None:
        """Kill a service by SIGKILL. Docker does not restart a container that a user killed; podman does."""
        containers = self.containers(service)
        self.engine("kill", *containers)
        self.engine("start", *containers)

    def secret(self, name: str) -> str:
        """Return the content of a file of the secrets, read in the container of the API."""
        return self.compose("exec", "-T", "api", "cat", f"/run/normlab/{name}").decode().strip()

    def client(self, token: str | None = None) -> Client:
        """A client on the host, with the generated token."""
        url = f"http://127.0.0.1:{self.port}"
        return Client(url, token or self.secret("api_token"), retry_s=PATIENCE_S, patience_s=PATIENCE_S)

    def down(self, *options: str) -> None:
        """Remove every container. podman-compose alone would leave those that --scale added."""
        if all_ := self.engine("ps", "-aq", f"--filter=label=com.docker.compose.project={self.project}").split():
            self.engine("stop", *all_)
            # podman refuses to remove a container while others depend on it.
            for _ in range(2):
                subprocess.run((self._program, "rm", "-f", *all_), capture_output=True, check=False)
        self.compose("down", *options)

    def logs(self) -> str:
        """Return the last log lines of every container."""
        found = self.engine("ps", "-aq", f"--filter=label=com.docker.compose.project={self.project}").split()
        command = (self._program, "logs", "--tail", "20")
        told = [
            subprocess.run((*command, container), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout
            for container in found
        ]
        return b"\n".join(told).decode(errors="replace")

    def wait_ready(self) -> None:
        """Wait until submitted jobs can run."""

        def ready() -> bool:
            with Client(f"http://127.0.0.1:{self.port}", retry_s=0) as client:
                try:
                    return bool(client.ready()["status"] == "ready")
                except (ApiError, ConnectionFailed):
                    return False

        until(ready, "the service to be ready")

    def _run(self, command: tuple[str, ...], given: bytes | None, timeout_s: float) -> bytes:
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, input=given, capture_output=True, timeout=timeout_s, check=False
        )
        said = (done.stdout + done.stderr).decode(errors="replace")[-4000:]
        assert done.returncode == 0, f"{' '.join(command)} exits with {done.returncode}:\n{said}"
        return done.stdout


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the result is not None; containers have no events for what the tests wait for."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.2)
    return found
