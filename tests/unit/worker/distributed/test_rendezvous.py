"""Workers of one job find each other, or say for whom they waited and where."""

import os
import socket
import threading
import time
from typing import Any

import pytest
import torch

from tests.unit.worker.distributed.groups import HOST, Team
from worker.distributed.process_group import Gang, PeerLost, join
from worker.distributed.rank import Place
from worker.distributed.rendezvous import bind_interface

CPU = torch.device("cpu")


def join_alone(place: Place, **options: Any) -> Any:
    with pytest.raises(PeerLost) as lost:
        join(place, "gang", CPU, **options)
    return lost.value


def test_the_first_says_whom_it_waited_for_and_where() -> None:
    announced: list[str] = []

    lost = join_alone(Place(0, 3, HOST, 0.2), announce=announced.append)

    assert str(lost) == f"waited 0.2 s for rank 1 of 3 at {announced[0]}"
    assert announced[0].startswith(f"{HOST}:")


def test_a_worker_that_finds_nobody_says_whom_it_waited_for_and_where() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        address = "{}:{}".format(*taken.getsockname())
        lost = join_alone(Place(2, 3, HOST, 0.5, address))

    assert str(lost) == f"waited 0.5 s for rank 0 of 3 at {address}"


def test_an_address_that_is_not_of_this_node_is_named() -> None:
    lost = join_alone(Place(0, 2, "192.0.2.1", 0.5))

    assert "rank 0 of 2 cannot listen at 192.0.2.1" in str(lost)


def test_whoever_waits_can_be_told_to_stop() -> None:
    began = time.monotonic()
    lost = join_alone(Place(0, 2, HOST, 60.0), give_up=lambda: time.monotonic() - began > 0.05)

    assert "asked to stop while it waited for rank 1 of 2" in str(lost)


def test_workers_of_another_attempt_are_not_counted() -> None:
    """A late worker of a lost attempt may reach the port of the next one."""
    address: list[str] = []
    opened = threading.Event()
    strangers: list[str] = []

    def announce(at: str) -> None:
        address.append(at)
        opened.set()

    def come_late() -> None:
        opened.wait()
        with pytest.raises(PeerLost) as lost:
            join(Place(1, 2, HOST, 0.3, address[0]), "an earlier gang", CPU)
        strangers.append(str(lost.value))

    late = threading.Thread(target=come_late)
    late.start()
    lost = join_alone(Place(0, 2, HOST, 1.0), announce=announce)
    late.join()

    assert "waited 1 s for rank 1 of 2" in str(lost)
    assert "rank 0 of 2" in strangers[0]


def silent(gang: Gang) -> str:
    """What the first worker makes of a second one that takes no part."""
    if gang.rank == 1:
        time.sleep(3)
        return "slept"
    try:
        gang.agree(True)
    except PeerLost as lost:
        return str(lost)
    return "answered"


def test_a_silent_worker_is_not_waited_for_longer_than_the_time_given(team: Team) -> None:
    first, second = team.run(2, silent, timeout_s=1.0)

    assert first.startswith("rank 0 of 2 lost the others")
    assert second == "slept"


def test_the_interface_of_an_address_is_the_one_spoken_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    bind_interface("192.0.2.1")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    bind_interface(HOST)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
