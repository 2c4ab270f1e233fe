"""The version of normlab."""

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "0.0.0"
"""The version of a source tree that is not installed."""


def normlab_version() -> str:
    """Return the installed version, or `UNKNOWN`."""
    try:
        return version("normlab")
    except PackageNotFoundError:
        return UNKNOWN
