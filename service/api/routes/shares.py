"""Shares: links that show one experiment to people without a token."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context, ExperimentId, ShareId
from service.api.http.auth import AuthorizedClient
from service.api.http.prefix import link
from service.api.http.problems import describe
from service.errors import Conflict
from service.store import shares
from service.store.tables import Share

router = APIRouter(prefix="/v1/experiments/{experiment_id}/shares", tags=["shares"])

MOST_S = 10 * 366 * 24 * 3600


class ShareRequest(BaseModel):
    """How an experiment is shared."""

    model_config = ConfigDict(extra="forbid")

    anonymous: bool = Field(
        default=False, description="hide names of people and machines, notes and labels, for anonymous review"
    )
    expires_in_s: int | None = Field(
        default=None, ge=60, le=MOST_S, description="seconds for which the link works; null: until it is revoked"
    )


class ShareView(BaseModel):
    """A link that shows one experiment. Its token is not stored, and cannot be read again."""

    id: str
    experiment: str
    anonymous: bool
    created_by: str | None = Field(description="name of the token with which it was created")
    created_at: datetime
    expires_at: datetime | None


class Shares(BaseModel):
    """The links of an experiment, newest first."""

    data: list[ShareView]


class NewShare(ShareView):
    """A new link, with its token."""

    token: str = Field(description="for `Authorization: Bearer TOKEN`")
    path: str = Field(description="the link, without scheme and host; browsers do not send what follows #")


@router.post(
    "", operation_id="create_share", status_code=201, responses=describe(400, 401, 403, 404, 409, 413, 415, 422)
)
async def create(
    context: Context, client: AuthorizedClient, experiment_id: ExperimentId, request: Annotated[ShareRequest, Body()]
) -> NewShare:
    """Create a link that shows this experiment, its results and its jobs, and nothing else, without an account."""
    if not context.settings.tokens:
        raise Conflict(
            "This service has no tokens, so everybody who reaches it sees everything, and a link would hide nothing: "
            "set NORMLAB_API_TOKENS first."
        )
    lasts = None if request.expires_in_s is None else timedelta(seconds=request.expires_in_s)
    async with context.database.write() as session:
        share, token = await shares.create(
            session, experiment_id, anonymous=request.anonymous, lasts=lasts, created_by=client.submitter.name
        )
    path = link(f"/experiments/{experiment_id}#share={token}")
    return NewShare(**_view(share).model_dump(), token=token, path=path)


@router.get("", operation_id="list_shares", responses=describe(401, 404))
async def find(context: Context, experiment_id: ExperimentId) -> Shares:
    """The links of an experiment that have not been revoked, newest first."""
    async with context.database.read() as session:
        return Shares(data=[_view(share) for share in await shares.of_experiment(session, experiment_id)])


@router.delete("/{share_id}", operation_id="revoke_share", status_code=204, responses=describe(401, 403, 404))
async def revoke(context: Context, experiment_id: ExperimentId, share_id: ShareId) -> None:
    """Revoke a link: from now on it shows nothing."""
    async with context.database.write() as session:
        await shares.revoke(session, experiment_id, share_id)


def _view(share: Share) -> ShareView:
    return ShareView(
        id=share.id,
        experiment=share.experiment_id,
        anonymous=share.anonymous,
        created_by=share.created_by,
        created_at=share.created_at,
        expires_at=share.expires_at,
    )
