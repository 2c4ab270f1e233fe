"""What the Accept header asks for."""

from collections.abc import Sequence


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """The one of `offered` that the client likes best; the first where it does not say, or likes none of them.

    A media type is taken as meant when it is named: `*/*` does not choose a stream over a page.
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
