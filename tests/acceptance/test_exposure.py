"""What the whole service exposes: its ports, and its secrets in environments, command lines and logs."""

import secrets
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import psutil
import pytest

from service.client import Client, ClientError

pytestmark = pytest.mark.ray

JOB = {
    "normalization": {"type": "batch"},
    "batch_size": 16,
    "dataset": {"name": "synthetic", "train_limit": 64, "test_limit": 50},
}
KEY, TOKEN, WRONG_TOKEN = (secrets.token_hex(8) for _ in range(3))


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    """A service with a worker that has trained, and with a client that it refused."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        environment.setenv("NORMLAB_API_TOKENS", f"me:{TOKEN}")
        environment.setenv("NORMLAB_TOKEN", TOKEN)
        service = start_service()
    for _ in range(2):
        ended = service.client.wait(service.client.submit(JOB)["id"])
        assert ended["status"] == "succeeded", ended["error"]
    with Client(service.supervisor.url, token=WRONG_TOKEN) as stranger, pytest.raises(ClientError):
        stranger.cluster()
    return service


def family(service: Any) -> Iterator[psutil.Process]:
    for pid in service.supervisor.pids.values():
        process = psutil.Process(pid)
        yield from (process, *process.children(recursive=True))


def test_every_port_is_on_the_loopback_interface(service: Any) -> None:
    listening = {
        (process.name(), connection.laddr.ip)
        for process in family(service)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    addresses = {(name, ip_address(address.removeprefix("::ffff:"))) for name, address in listening}
    assert not [(name, address) for name, address in addresses if not address.is_loopback]
    names = [" ".join(process.cmdline()) for process in family(service)]
    assert not [name for name in names if "ray.util.client" in name or "monitor.py" in name.partition("log_monitor")[0]]


def test_a_training_has_neither_the_token_of_ray_nor_credentials_of_the_service(service: Any) -> None:
    [training] = [process for process in family(service) if "worker.process" in process.cmdline()]
    environment = training.environ()
    assert {name for name in environment if name.startswith(("RAY_", "NORMLAB_", "AWS_"))} == {"NORMLAB_SUPERVISOR"}
    ray = psutil.Process(service.supervisor.pids["ray"]).environ()
    assert not [name for name in ray if name.startswith(("NORMLAB_", "AWS_")) and name != "NORMLAB_SUPERVISOR"]
    assert KEY in psutil.Process(service.supervisor.pids["api"]).environ().values()


def test_no_secret_is_in_a_command_line_or_in_a_log(service: Any) -> None:
    of_ray = psutil.Process(service.supervisor.pids["dispatcher"]).environ()["RAY_AUTH_TOKEN"]
    lines = [part for process in family(service) for part in process.cmdline()]
    ray_folder = service.supervisor._ray.folder
    logs = [*service.home.glob("logs/*"), *ray_folder.glob("r/session_*/logs/**/*"), service.home / "supervisor.json"]
    assert len(logs) > 5
    texts = [*lines, *(path.read_text(errors="replace") for path in logs if path.is_file())]
    for secret in (of_ray, KEY, TOKEN, WRONG_TOKEN):
        assert not [text for text in texts if secret in text]
