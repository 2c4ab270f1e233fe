"""The Python client of the HTTP API: `Client`, its errors, and the titles of jobs."""

from service.client.client import DEFAULT_URL, TERMINAL, Client, Event
from service.client.connection import ApiError, ClientError, ConnectionFailed, CorruptDownload, NotNormlab

__all__ = [
    "DEFAULT_URL",
    "TERMINAL",
    "ApiError",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "NotNormlab",
]
