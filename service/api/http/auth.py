"""Authentication and authorization by bearer tokens, some of which are read-only."""

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden, Unauthorized
from service.settings import Settings

READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Client:
    """The holder of a token; "anonymous" if none are configured."""

    name: str
    may_write: bool


ANONYMOUS = Client("anonymous", may_write=True)


def identify(settings: Settings, token: str | None) -> Client:
    """Return the client that a token belongs to. Raises `Unauthorized`."""
    if not settings.tokens:
        return ANONYMOUS
    if token is None:
        raise Unauthorized("A token is required: send the header Authorization: Bearer TOKEN.")
    found = None
    # All tokens are compared, each in constant time, so that the duration reveals nothing about them.
    for known, (name, may_write) in settings.tokens.items():
        if compare_digest(_digest(known), _digest(token)):
            found = Client(name, may_write)
    if found is None:
        raise Unauthorized("The token is unknown.")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


_bearer = HTTPBearer(auto_error=False, description="One of NORMLAB_API_TOKENS, if that is set.")


async def authorize(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Client:
    """Return the client of this request.

    Raises:
        Unauthorized: The token is missing or unknown.
        Forbidden: The token is read-only, and the request writes.
    """
    client = identify(request.app.state.services.settings, credentials.credentials if credentials else None)
    if not client.may_write and request.method not in READING:
        raise Forbidden(f"The token of {client.name} is read-only; {request.method} needs one that may write.")
    return client


AuthorizedClient = Annotated[Client, Depends(authorize)]
