"""The workers of a job find each other, or name the missing rank and the address."""

import os
import queue
import socket
import threading
import time
from typing import Any

import pytest
import torch

from tests.unit.worker.distributed.groups import HOST, Team
from worker.distributed import process_group
from worker.distributed.process_group import DistributedGroup, PeerLost, SharedGPU, join
from worker.distributed.rank import RankInfo
from worker.distributed.rendezvous import rendezvous, use_interface_of
from worker.training.failures import failure_of

CPU = torch.device("cpu")


def join_alone(info: RankInfo, **options: Any) -> Any:
    with pytest.raises(PeerLost) as lost:
        join(info, "group", CPU, **options)
    return lost.value


def test_rank_zero_names_the_missing_rank_and_its_address() -> None:
    announced: list[str] = []

    lost = join_alone(RankInfo(0, 3, HOST, 0.2), on_listening=announced.append)

    assert str(lost) == f"waited 0.2 s for rank 1 of 3 at {announced[0]}"
    assert announced[0].startswith(f"{HOST}:")


def test_a_rank_that_cannot_connect_names_rank_zero_and_its_address() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        address = "{}:{}".format(*taken.getsockname())
        lost = join_alone(RankInfo(2, 3, HOST, 0.5, address))

    assert str(lost) == f"waited 0.5 s for rank 0 of 3 at {address}"


def test_an_address_that_is_not_of_this_node_is_named() -> None:
    lost = join_alone(RankInfo(0, 2, "192.0.2.1", 0.5))

    assert "rank 0 of 2 cannot listen at 192.0.2.1" in str(lost)


def test_a_waiting_worker_can_be_cancelled() -> None:
    began = time.monotonic()
    lost = join_alone(RankInfo(0, 2, HOST, 60.0), cancelled=lambda: time.monotonic() - began > 0.05)

    assert "cancelled while waiting for rank 1 of 2" in str(lost)


def test_workers_of_another_attempt_are_not_counted() -> None:
    """A late worker of an earlier attempt can reach the port of the next attempt."""
    address: list[str] = []
    opened = threading.Event()
    strangers: list[str] = []

    def announce(at: str) -> None:
        address.append(at)
        opened.set()

    def come_late() -> None:
        opened.wait()
        with pytest.raises(PeerLost) as lost:
            join(RankInfo(1, 2, HOST, 0.3, address[0]), "an earlier group", CPU)
        strangers.append(str(lost.value))

    late = threading.Thread(target=come_late)
    late.start()
    lost = join_alone(RankInfo(0, 2, HOST, 1.0), on_listening=announce)
    late.join()

    assert "waited 1 s for rank 1 of 2" in str(lost)
    assert "rank 0 of 2" in strangers[0]


def silent(group: DistributedGroup) -> str:
    """Return the error of rank 0 when rank 1 does not take part in a collective."""
    if group.rank == 1:
        time.sleep(3)
        return "slept"
    try:
        group.any_rank(True)
    except PeerLost as lost:
        return str(lost)
    return "answered"


def test_a_collective_fails_after_the_timeout(team: Team) -> None:
    first, second = team.run(2, silent, timeout_s=1.0)

    assert first.startswith("rank 0 of 2 lost the other workers")
    assert second == "slept"


def test_the_interface_of_the_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    use_interface_of("192.0.2.1")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    use_interface_of(HOST)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"


def test_ranks_learn_the_gpus_of_all() -> None:
    addresses: queue.SimpleQueue[str] = queue.SimpleQueue()
    found: dict[int, list[str]] = {}

    def meet(info: RankInfo) -> None:
        deadline = time.monotonic() + 60
        found[info.rank] = rendezvous(
            info, "group", deadline, gpu=f"GPU-{info.rank}", on_listening=addresses.put, cancelled=lambda: False
        )[1]

    first = threading.Thread(target=meet, args=(RankInfo(0, 2, HOST, 60.0),))
    first.start()
    meet(RankInfo(1, 2, HOST, 60.0, addresses.get(timeout=60)))
    first.join(60)
    assert found == {0: ["GPU-0", "GPU-1"], 1: ["GPU-0", "GPU-1"]}


def test_two_ranks_on_one_gpu_are_refused_before_nccl_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "_identity", lambda _: "GPU-2")
    monkeypatch.setattr(process_group, "rendezvous", lambda *_, gpu, **__: (None, ["GPU-1", gpu, gpu]))

    with pytest.raises(SharedGPU) as shared:
        join(RankInfo(1, 3, HOST, 60.0), "group", torch.device("cuda", 0))
    assert str(shared.value) == (
        "ranks 1 and 2 of 3 are both on the GPU GPU-2: each worker of a job needs a GPU of its own; set "
        "NORMLAB_GPUS_PER_WORKER to 1, or num_workers to 1"
    )
    failure = failure_of(shared.value, None)
    assert (failure.code, failure.may_pass) == ("invalid", False)
