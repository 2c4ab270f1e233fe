"""The Python client of the HTTP API: `Client`, `AsyncClient` and their errors."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.connection import DEFAULT_URL, Event
from service.client.errors import ApiError, ClientError, ConnectionFailed, CorruptDownload, NotNormlab
from service.client.records import Records
from service.client.requests import InvalidRequest
from service.client.results import Comparison, Results

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Comparison",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "InvalidRequest",
    "NotNormlab",
    "Records",
    "Results",
]
