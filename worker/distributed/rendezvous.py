"""How the workers of one job find each other: the first one listens, the others are told where."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from worker.distributed.rank import Place

POLL_S = 0.02
_SIOCGIFADDR = 0x8915
"""Linux' request for the address of a network interface (netdevice(7))."""


class NotJoined(RuntimeError):
    """The workers did not come together; the message says who was waited for."""


def meet(
    place: Place,
    name: str,
    deadline: float,
    *,
    announce: Callable[[str], None],
    give_up: Callable[[], bool],
) -> Store:
    """The store that the workers of the group `name` share, once all of them have come to it. Raises `NotJoined`."""
    if place.rank == 0:
        store, address = _open(place)
        announce(address)
    else:
        assert place.address is not None, "only the first worker opens the store"
        address = place.address
        store = _reach(place, address)
    shared = PrefixStore(name, store)
    try:
        shared.set(_key(place.rank), place.host)
        for rank in range(place.size):
            while not shared.check([_key(rank)]):
                if give_up():
                    raise NotJoined(f"asked to stop while it waited for rank {rank} of {place.size} at {address}")
                if time.monotonic() > deadline:
                    raise NotJoined(_waited(place, rank, address))
                time.sleep(POLL_S)
    except NotJoined:
        raise
    except RuntimeError as error:
        raise NotJoined(f"rank 0 of {place.size} at {address} went away before all had come") from error
    return shared


def bind_interface(host: str) -> None:
    """Have gloo and NCCL use the network interface that has the address `host`.

    By themselves they take that of the host's name, which on many machines is the loopback. Where none has it (an
    address behind a translation, another system than Linux) they choose.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
                if socket.inet_ntoa(answer[20:24]) == host:
                    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
                    return


def _open(place: Place) -> tuple[Store, str]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((place.host, 0))
            listener.listen(place.size)
            port = listener.getsockname()[1]
            store = TCPStore(
                place.host,
                port,
                is_master=True,
                timeout=timedelta(seconds=place.timeout_s),
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
    except (OSError, RuntimeError) as error:
        raise NotJoined(f"rank 0 of {place.size} cannot listen at {place.host}: {error}") from error
    return store, f"{place.host}:{port}"


def _reach(place: Place, address: str) -> Store:
    host, _, port = address.rpartition(":")
    try:
        return TCPStore(
            host,
            int(port),
            is_master=False,
            timeout=timedelta(seconds=place.timeout_s),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise NotJoined(_waited(place, 0, address)) from error


def _waited(place: Place, rank: int, address: str) -> str:
    return f"waited {place.timeout_s:g} s for rank {rank} of {place.size} at {address}"


def _key(rank: int) -> str:
    return f"rank {rank}"
