"""Who submits jobs and experiments."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Submitter:
    """Who submits: the name of a token, None without tokens."""

    name: str | None = None


NOBODY = Submitter()
"""Who submits without a token."""
