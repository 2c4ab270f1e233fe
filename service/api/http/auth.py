"""Authentication and authorization: tokens, some of which are read-only, links of shares, and the cookie of browsers.

A page of another site cannot send a token, because that needs a header. It might make the browser send the cookie: a
request with the cookie alone changes something only if it comes from a page of the service.
"""

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from service.api.http import sessions, sharing
from service.api.http.origin import READING, foreign_page
from service.errors import Forbidden, Unauthorized
from service.settings import Settings
from service.store import shares
from service.store.submitters import NOBODY, Submitter
from service.store.tables import Share

MAY_READ = frozenset({"submit_experiment"})
"""Operations that only read under a condition, such as a dry run: they call `Client.check_may_write` otherwise."""


@dataclass(frozen=True)
class Client:
    """The holder of a token; "anonymous" if none are configured."""

    name: str
    may_write: bool
    most_queued: int | None = None
    """How many jobs of this name may wait; None: any number."""

    share: Share | None = None
    """The share whose link is used. What it permits is checked before the route runs."""

    @property
    def is_anonymous(self) -> bool:
        """Whether names of people and machines, notes and labels are hidden from this client."""
        return self.share is not None and self.share.anonymous

    @property
    def submitter(self) -> Submitter:
        """Who submits with this token."""
        return NOBODY if self is ANONYMOUS else Submitter(self.name, self.most_queued)

    def check_may_write(self) -> None:
        """Raise `Forbidden` if the token is read-only."""
        if not self.may_write:
            raise Forbidden(f"The token of {self.name} is read-only; this request needs one that may write.")


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
            found = Client(name, may_write, settings.quota(name).queued)
    if found is None:
        raise Unauthorized("The token is unknown.")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


_bearer = HTTPBearer(auto_error=False, description="One of NORMLAB_API_TOKENS, if that is set.")
_cookie = APIKeyCookie(
    name=sessions.COOKIE, auto_error=False, description="The session of a browser, from POST /v1/session."
)


async def authorize(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    session: Annotated[str | None, Depends(_cookie)],
) -> Client:
    """Return the client of this request.

    Raises:
        Unauthorized: Neither a known token nor a session was sent.
        Forbidden: The request writes, and the token is read-only, or a page of another origin sent the session.
    """
    settings: Settings = request.app.state.services.settings
    token = credentials.credentials if credentials else None
    if token is None and session is not None and settings.tokens:
        token = sessions.token_of(session, settings.tokens)
        if request.method not in READING:
            refuse_foreign_page(request, may_be_program=False)
    if token is not None and shares.is_token(token):
        share = await sharing.permitted(request, request.app.state.services.database, token)
        return Client("the link of a share", may_write=False, share=share)
    client = identify(settings, token)
    if request.method not in READING and getattr(request.scope["route"], "operation_id", None) not in MAY_READ:
        client.check_may_write()
    return client


def refuse_foreign_page(request: Request, *, may_be_program: bool = True) -> None:
    """Raise `Forbidden` unless a page of this origin sent a request, or a program, which names no origin."""
    page = foreign_page(request.headers)
    if page is None and not may_be_program and not {"origin", "sec-fetch-site"} & set(request.headers):
        page = "not named"
    if page:
        raise Forbidden(
            f"The session of a browser is for pages of this service; this request comes from another origin ({page})."
        )


AuthorizedClient = Annotated[Client, Depends(authorize)]
