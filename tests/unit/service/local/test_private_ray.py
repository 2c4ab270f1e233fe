"""A private Ray: its ports, its folder and its sockets, its environment, and the resources that it offers."""

import contextlib
import importlib
import os
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.local.private_ray import PrivateRay, free_port, leaves_room_for_sockets, temporary_folder
from service.local.processes import child_named
from service.local.resources import available_cpus, available_memory
from service.settings import Settings
from tests.unit.service.local.test_supervisor import until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", port=0)


def test_it_has_no_port_and_no_folder_in_common_with_another(settings: Settings) -> None:
    with contextlib.ExitStack() as stack:
        rays = [PrivateRay(settings) for _ in range(2)]
        for ray in rays:
            stack.callback(ray.remove)
        first, second = (set(ray.command()) for ray in rays)
        fixed = {argument for argument in first & second if "port" in argument}
        assert all(argument.endswith("-port=0") for argument in fixed)
        assert rays[0].address != rays[1].address
        assert rays[0].environment()["RAY_AUTH_TOKEN"] != rays[1].environment()["RAY_AUTH_TOKEN"]


def test_the_server_for_clients_that_ray_starts_unasked_is_left_out() -> None:
    hook = PrivateRay(Settings()).environment()["RAY_START_HOOK"]
    module, _, function = hook.rpartition(".")
    parameters = SimpleNamespace(ray_client_server_port=10001)
    getattr(importlib.import_module(module), function)(parameters, True)
    assert parameters.ray_client_server_port is None


def test_only_its_user_can_enter_its_folder(settings: Settings) -> None:
    ray = PrivateRay(settings)
    [temporary] = [option for option in ray.command() if option.startswith("--temp-dir=")]
    assert ray.folder is not None
    assert Path(temporary.partition("=")[2]).parent == ray.folder, "Ray makes its own folder writable for all"
    assert stat.S_IMODE(ray.folder.stat().st_mode) == 0o700
    ray.remove()
    assert ray.folder is None


def test_it_keeps_its_token_out_of_the_command(settings: Settings) -> None:
    ray = PrivateRay(settings)
    assert ray.environment()["RAY_AUTH_TOKEN"] not in " ".join(ray.command())
    ray.remove()


def sockets_fit(folder: Path) -> bool:
    """Whether the system takes the longest path of a socket of Ray in this folder."""
    sockets = folder / "r/session_2026-01-01_00-00-00_000000_4194304/sockets"
    sockets.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(os.fsencode(sockets / "plasma_store"))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("letter", ["x", "é", "図"])
@pytest.mark.parametrize("length", range(20, 61, 2))
def test_the_sockets_of_ray_fit_whatever_the_temporary_folder(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, length: int, letter: str
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="") as base:
        room = length - len(base) - 1
        letters = letter * (room // len(letter.encode()))
        temporary = Path(base, letters + "x" * (room - len(letters.encode())))
        temporary.mkdir()
        assert len(os.fsencode(temporary)) == length
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        ray = PrivateRay(settings)
        ray.command()
        assert ray.folder is not None
        assert sockets_fit(ray.folder)
        fits = sockets_fit(temporary / "normlab-fits1234")
        assert (ray.folder.parent == temporary) is fits, "another folder is used only if it is necessary"
        if fits:
            assert ray.notice is None
        else:
            assert f"in {ray.folder}, because {temporary} cannot be used" in str(ray.notice)
        ray.remove()


def test_a_temporary_folder_whose_path_is_not_utf_8_is_not_used() -> None:
    assert leaves_room_for_sockets("/é")
    assert not leaves_room_for_sockets(os.fsdecode(b"/\xff"))


def test_without_any_temporary_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/a" * 30)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RuntimeError, match=r"at most 24 bytes of UTF-8: set TMPDIR to one \(/a/a.*, /tmp, /var/tmp"):
        temporary_folder()


def test_the_errors_of_its_processes_are_the_ends_of_their_logs(settings: Settings) -> None:
    ray = PrivateRay(settings)
    assert ray.errors() == ""
    ray.command()
    assert ray.folder is not None
    logs = ray.folder / "r/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.err").touch()
    (logs / "raylet.err").write_text("first\n" + "middle\n" * 9 + "Check failed: no room\n")
    assert ray.errors(lines=2) == "raylet.err ends with:\nmiddle\nCheck failed: no room"
    ray.remove()


def test_it_takes_no_more_than_the_machine_has(settings: Settings) -> None:
    assert 1 <= PrivateRay(settings).slots <= available_cpus()
    assert PrivateRay(settings.model_copy(update={"cpus_per_worker": 10_000})).slots == 1
    assert available_memory() > 0


def test_it_leaves_gpus_alone_unless_asked_for(settings: Settings) -> None:
    ray = PrivateRay(settings)
    assert "--num-gpus=0" in ray.command()
    ray.remove()
    ray = PrivateRay(settings.model_copy(update={"gpus_per_worker": 1.0}))
    assert "--num-gpus=0" not in ray.command()
    ray.remove()


def test_it_knows_when_its_raylet_has_exited(settings: Settings, tmp_path: Path) -> None:
    program = tmp_path / "raylet"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    ray = PrivateRay(settings)
    assert not ray.raylet_exited(os.getpid()), "it has not started yet"
    with subprocess.Popen([program], stdin=subprocess.PIPE) as raylet:
        until(lambda: child_named(os.getpid(), "raylet"))
        assert not ray.raylet_exited(os.getpid())
        assert not ray.raylet_exited(os.getpid())
        raylet.kill()
        until(lambda: ray.raylet_exited(os.getpid()))


def test_it_answers_once_it_listens(settings: Settings) -> None:
    ray = PrivateRay(settings)
    ray.port = free_port()
    assert not ray.answers()
