"""Idempotency keys: a request that is sent twice is carried out once."""

import hashlib
import json
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel

from service.errors import Unprocessable
from service.store import Session, jobs

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="a repeat with the same key and body returns the first resource; each client has separate keys",
    ),
]


def fingerprint(request: BaseModel) -> str:
    """Return a digest of a request body."""
    canonical = type(request).__name__ + json.dumps(request.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


async def answered(session: Session, client: str, key: str, print_: str) -> str | None:
    """Return the id of the resource that a key created, None if the key is new.

    Raises:
        Unprocessable: The key was used with another body.
    """
    answer = await jobs.answered(session, client, key)
    if answer is None:
        return None
    if answer.fingerprint != print_:
        raise Unprocessable(
            f"The Idempotency-Key {key} was used for another body, which created {answer.answer}: "
            "repeat that body, or choose a new key."
        )
    return answer.answer
