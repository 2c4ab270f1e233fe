"""The connection of the dispatcher to Ray, without a cluster."""

import asyncio
import re
from pathlib import Path

import pytest

from service.dispatcher.cluster import Cluster, ClusterGone
from service.dispatcher.nodes import node_of, room_problem
from service.local.private_ray import free_port
from service.local.supervisor import can_listen
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:{}"),
        pytest.param(
            "::1", "[::1]:{}", marks=pytest.mark.skipif(not can_listen("::1", 0), reason="needs IPv6"), id="IPv6"
        ),
    ],
)
async def test_the_address_of_a_head_may_be_one_of_ipv6(tmp_path: Path, host: str, address: str) -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), host, 0) as head:
        port = head.sockets[0].getsockname()[1]
        await Cluster(Settings(home=tmp_path, ray_address=address.format(port))).check()
    with pytest.raises(ClusterGone, match="cannot be reached"):
        await Cluster(Settings(home=tmp_path, ray_address=address.format(free_port(host)))).check()


@pytest.mark.parametrize(
    ("gpus_per_worker", "gpus", "cpus", "slots"),
    [(0, 8, 4, 4), (1, 8, 16, 8), (1, 8, 4, 4), (0.5, 2, 16, 4), (0.6, 2, 16, 2), (0.3, 2, 16, 6), (0.1, 1, 16, 10)],
)
def test_no_worker_is_placed_on_two_gpus(
    tmp_path: Path, gpus_per_worker: float, gpus: float, cpus: float, slots: int
) -> None:
    settings = Settings(home=tmp_path, gpus_per_worker=gpus_per_worker)
    node = {"NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": cpus, "GPU": gpus}}
    assert node_of(node, settings).slots == slots


@pytest.mark.parametrize(
    ("gpus_per_worker", "nodes", "problem"),
    [
        (0, [(1, 0), (0, 0)], None),
        (1, [(4, 1)], None),
        (1, [(4, 0), (16, 0)], "GPUS_PER_WORKER = 1: the largest has 16 CPUs and 0 GPUs"),
        (0, [(0, 0)], "CPUS_PER_WORKER = 1 .*: the largest has 0 CPUs"),
        (0, [], "it has no nodes"),
    ],
)
def test_a_cluster_without_room_for_a_worker_says_why(
    tmp_path: Path, gpus_per_worker: float, nodes: list[tuple[float, float]], problem: str | None
) -> None:
    settings = Settings(home=tmp_path, gpus_per_worker=gpus_per_worker)
    described = [{"NodeID": "a", "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in nodes]
    found = room_problem([node_of(node, settings) for node in described], settings)
    assert (found is None) == (problem is None)
    assert problem is None or re.search(problem, found or "")
