"""Shares: links that show one experiment to whoever has the token in them."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, NotFound
from service.store import experiments
from service.store.identifiers import new_id
from service.store.tables import Job, Share

MOST = 50
"""Maximum number of shares of an experiment."""
_TOKEN = re.compile(r"share_[A-Za-z0-9_-]{43}")


def is_token(text: str) -> bool:
    """Return whether a text has the form of the token of a share."""
    return _TOKEN.fullmatch(text) is not None


async def create(
    session: AsyncSession, experiment_id: str, *, anonymous: bool, lasts: timedelta | None, created_by: str | None
) -> tuple[Share, str]:
    """Create a share. Only the hash of its token is stored. Raises `NotFound`, or `Conflict` if there are `MOST`.

    Returns:
        The share and its token, which cannot be read again.
    """
    await experiments.get(session, experiment_id, lock=True)
    count = await session.scalar(select(func.count()).where(Share.experiment_id == experiment_id)) or 0
    if count >= MOST:
        raise Conflict(f"Experiment {experiment_id} has {MOST} shares, which is the maximum: revoke one first.")
    # 256 random bits: a hash that can be computed quickly protects them.
    token = f"share_{secrets.token_urlsafe(32)}"
    now = datetime.now(UTC)
    share = Share(
        id=new_id("share"),
        experiment_id=experiment_id,
        token_sha256=_digest(token),
        anonymous=anonymous,
        created_by=created_by,
        created_at=now,
        expires_at=None if lasts is None else now + lasts,
    )
    session.add(share)
    await session.flush()
    return share, token


async def of_experiment(session: AsyncSession, experiment_id: str) -> Sequence[Share]:
    """Return the shares of an experiment, newest first. Raises `NotFound`."""
    await experiments.get(session, experiment_id)
    query = select(Share).where(Share.experiment_id == experiment_id)
    return (await session.scalars(query.order_by(Share.created_at.desc(), Share.id.desc()))).all()


async def revoke(session: AsyncSession, experiment_id: str, share_id: str) -> None:
    """Delete a share: its link shows nothing any more. Raises `NotFound`."""
    of_it = (Share.experiment_id == experiment_id, Share.id == share_id)
    if await session.scalar(delete(Share).where(*of_it).returning(Share.id)) is None:
        raise NotFound("share", f"{share_id} of experiment {experiment_id}")


async def of_token(session: AsyncSession, token: str) -> Share | None:
    """Return the share that a token belongs to, None if there is none or it has expired."""
    share = await session.scalar(select(Share).where(Share.token_sha256 == _digest(token)))
    if share is None or (share.expires_at is not None and share.expires_at <= datetime.now(UTC)):
        return None
    return share


async def are_shared(session: AsyncSession, share: Share, job_ids: Sequence[str]) -> bool:
    """Return whether all jobs belong to the experiment of a share."""
    query = select(func.count()).where(Job.id.in_(job_ids), Job.experiment_id == share.experiment_id)
    return await session.scalar(query) == len(set(job_ids))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
