"""The Python client of the HTTP API: `Client`, its errors, and the titles of jobs."""

from service.client.client import TERMINAL, Client
from service.client.connection import (
    DEFAULT_URL,
    ApiError,
    ClientError,
    ConnectionFailed,
    CorruptDownload,
    Event,
    NotNormlab,
)

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
