"""Where a worker stands among those of its job. Imports nothing, so that an actor can say it without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The `rank` of a worker among `size`, and `host`, the address under which the others reach its node.

    `address` is where the first worker listens, host:port; the first one is not told, for it tells the others. They
    wait `timeout_s` for each other: to come together, and afterwards in every exchange.
    """

    rank: int
    size: int
    host: str
    timeout_s: float
    address: str | None = None
