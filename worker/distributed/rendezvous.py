"""Rendezvous: rank 0 listens at an address, the other ranks connect to it, and all wait until every rank is there."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from worker.distributed.rank import RankInfo

POLL_S = 0.02
_SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface (netdevice(7))."""


class RendezvousError(RuntimeError):
    """The workers did not find each other; the message names the rank that is missing."""


def rendezvous(
    info: RankInfo,
    name: str,
    deadline: float,
    *,
    gpu: str = "",
    on_listening: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> tuple[Store, list[str]]:
    """Return the store that all ranks of the group `name` share, and their GPUs, once every rank has connected to it.

    Args:
        info: This worker's rank, and the address of rank 0.
        name: Name of the group. Workers of another group that reach the same port are not counted.
        deadline: Time of `time.monotonic` at which to give up.
        gpu: What identifies the GPU of this rank; empty on a CPU.
        on_listening: Called on rank 0 with the host:port at which it listens.
        cancelled: Polled while waiting; True ends the wait.

    Raises:
        RendezvousError: If a rank is missing at the deadline, if rank 0 is not reachable, or if it was cancelled.
    """
    if info.rank == 0:
        store, address = _listen(info)
        on_listening(address)
    else:
        assert info.address is not None, "only rank 0 opens the store"
        address = info.address
        store = _connect(info, address)
    shared = PrefixStore(name, store)
    try:
        shared.set(_key(info.rank), gpu)
        for rank in range(info.world_size):
            while not shared.check([_key(rank)]):
                if cancelled():
                    raise RendezvousError(f"cancelled while waiting for rank {rank} of {info.world_size} at {address}")
                if time.monotonic() > deadline:
                    raise RendezvousError(_timed_out(info, rank, address))
                time.sleep(POLL_S)
        gpus = [shared.get(_key(rank)).decode() for rank in range(info.world_size)]
    except RendezvousError:
        raise
    except RuntimeError as error:
        raise RendezvousError(
            f"rank 0 of {info.world_size} at {address} closed the connection before all ranks had joined"
        ) from error
    return shared, gpus


def use_interface_of(host: str) -> None:
    """Make gloo and NCCL use the network interface that has the address `host`.

    By default they use the interface to which the host name resolves, on many machines the loopback. The default stays
    in place if no interface has the address (behind network address translation, or on systems other than Linux).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == host:
                    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
                    return


def _listen(info: RankInfo) -> tuple[Store, str]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((info.host, 0))
            listener.listen(info.world_size)
            port = listener.getsockname()[1]
            store = TCPStore(
                info.host,
                port,
                is_master=True,
                timeout=timedelta(seconds=info.timeout_s),
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
    except (OSError, RuntimeError) as error:
        raise RendezvousError(f"rank 0 of {info.world_size} cannot listen at {info.host}: {error}") from error
    return store, f"{info.host}:{port}"


def _connect(info: RankInfo, address: str) -> Store:
    host, _, port = address.rpartition(":")
    try:
        return TCPStore(
            host,
            int(port),
            is_master=False,
            timeout=timedelta(seconds=info.timeout_s),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise RendezvousError(_timed_out(info, 0, address)) from error


def _timed_out(info: RankInfo, rank: int, address: str) -> str:
    return f"waited {info.timeout_s:g} s for rank {rank} of {info.world_size} at {address}"


def _key(rank: int) -> str:
    return f"rank {rank}"
