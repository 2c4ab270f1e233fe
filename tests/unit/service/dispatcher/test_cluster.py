"""The connection of the dispatcher to Ray, without a cluster."""

import asyncio
from pathlib import Path

import pytest

from service.dispatcher.cluster import Cluster, ClusterGone
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
