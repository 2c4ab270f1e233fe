"""The session of a browser: sign in with a token, sign out, and who is signed in."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context
from service.api.http import sessions
from service.api.http.auth import AuthorizedClient, Client, identify, refuse_foreign_page
from service.api.http.field_problems import known_parameters_only
from service.api.http.prefix import link
from service.api.http.problems import describe

router = APIRouter(prefix="/v1/session", tags=["session"], dependencies=[Depends(known_parameters_only)])


class SignIn(BaseModel):
    """The token to sign in with."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000, description="one of NORMLAB_API_TOKENS")


class SharedView(BaseModel):
    """What the link of a share shows."""

    experiment: str
    anonymous: bool
    expires_at: datetime | None


class SessionView(BaseModel):
    """Who sent the request, and what they may do."""

    name: str | None = Field(description="name of the token; null if the service has no tokens, and for a link")
    may_write: bool = Field(description="whether the token may change anything")
    share: SharedView | None = Field(description="the share whose link is used; null for tokens and sessions")


@router.post("", operation_id="sign_in", responses=describe(400, 401, 403, 413, 415, 422))
async def sign_in(
    context: Context, request: Request, wanted: Annotated[SignIn, Body()], response: Response
) -> SessionView:
    """Sign in with a token. The session is a cookie, for browsers: HttpOnly, SameSite=Strict, and Secure on https."""
    refuse_foreign_page(request)
    client = identify(context.settings, wanted.token)
    if context.settings.tokens:
        _set_cookie(request, response, sessions.begin(wanted.token), sessions.LASTS_S)
    return _view(context, client)


@router.get("", operation_id="get_session", responses=describe(401))
async def show(context: Context, client: AuthorizedClient, response: Response) -> SessionView:
    """Who is signed in, by a session or by a token."""
    response.headers["Cache-Control"] = "no-store"
    return _view(context, client)


@router.delete("", operation_id="sign_out", status_code=204, responses=describe(403))
async def sign_out(request: Request, response: Response) -> None:
    """Sign out: the browser forgets the session."""
    refuse_foreign_page(request)
    _set_cookie(request, response, "", 0)


def _set_cookie(request: Request, response: Response, value: str, max_age: int) -> None:
    # A proxy may have ended TLS; the page knows by which scheme it was loaded.
    secure = "https" in (request.url.scheme, request.headers.get("origin", "").partition(":")[0])
    response.set_cookie(
        sessions.COOKIE, value, max_age=max_age, path=link("") or "/", httponly=True, samesite="strict", secure=secure
    )


def _view(context: Context, client: Client) -> SessionView:
    share = client.share
    if share is not None:
        shared = SharedView(experiment=share.experiment_id, anonymous=share.anonymous, expires_at=share.expires_at)
        return SessionView(name=None, may_write=False, share=shared)
    return SessionView(name=client.name if context.settings.tokens else None, may_write=client.may_write, share=None)
