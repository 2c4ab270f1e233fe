"""Content negotiation by the Accept header."""

from collections.abc import Sequence


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """Return the media type of `offered` that the client prefers; the first one if it prefers none of them.

    Only media types that the header names count: `*/*` does not select a stream over a page.
    """
    quality: dict[str, float] = {}
    for entry in (accept or "").lower().split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            quality[media_type] = float(weight)
        except ValueError:
            quality[media_type] = 0.0
    best = max(offered, key=lambda media_type: quality.get(media_type, 0.0))
    return best if quality.get(best, 0.0) > 0 else offered[0]
