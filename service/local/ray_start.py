"""What `ray start` has no option for: it calls `without_client_server`, which `RAY_START_HOOK` names."""

from typing import Any

HOOK = f"{__name__}.without_client_server"
"""The value of `RAY_START_HOOK`."""


def without_client_server(parameters: Any, head: bool) -> None:
    """Leave the server for Ray clients out, which a head starts on all interfaces if gRPC is installed."""
    parameters.ray_client_server_port = None
