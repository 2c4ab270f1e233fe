"""The prefix of the service's paths behind a proxy, NORMLAB_ROOT_PATH."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_prefix: ContextVar[str] = ContextVar("normlab_prefix", default="")


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Set the prefix of the links that are made within the context."""
    token = _prefix.set(prefix)
    try:
        yield
    finally:
        _prefix.reset(token)


def link(path: str) -> str:
    """Return a path as the clients of the proxy request it."""
    return _prefix.get() + path


def without_prefix(path: str, prefix: str) -> str:
    """Return the path of a request without the prefix, which a proxy removes or leaves."""
    if prefix and f"{path}/".startswith(f"{prefix}/"):
        return path.removeprefix(prefix) or "/"
    return path
