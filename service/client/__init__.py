"""The Python client of the HTTP API: `Client` and its errors."""

from service.client.client import DEFAULT_URL, Client, Event
from service.client.connection import ApiError, ClientError, ConnectionFailed, CorruptDownload, NotNormlab

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "NotNormlab",
]
