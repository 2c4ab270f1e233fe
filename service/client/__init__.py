"""The Python client of the HTTP API: `Client` and its errors."""

from service.client.client import Client
from service.client.connection import (
    DEFAULT_URL,
    ApiError,
    ClientError,
    ConnectionFailed,
    CorruptDownload,
    Event,
    NotNormlab,
)
from service.client.requests import InvalidRequest
from service.client.results import Results

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "InvalidRequest",
    "NotNormlab",
    "Results",
]
