"""Conditional changes (RFC 9110, section 13): a client changes only what it has seen."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import Header

from service.errors import PreconditionFailed

IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="ETag of the resource as the client has read it: it is changed only if it still has this ETag",
    ),
]


def etag(*values: Any) -> str:
    """Return the ETag of what clients can change of a resource."""
    text = json.dumps(values, sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def require(if_match: str | None, current: str) -> None:
    """Raise `PreconditionFailed` unless a resource with the ETag `current` fits the header."""
    tags = [tag.strip() for tag in if_match.split(",")] if if_match is not None else ["*"]
    if current not in tags and "*" not in tags:
        raise PreconditionFailed(
            f"If-Match is {if_match}, and the ETag is {current}: somebody has changed it since it was read. "
            "Nothing was changed; read it again."
        )
