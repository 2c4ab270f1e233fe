"""Which version of normlab this is."""

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "0.0.0"
"""Where normlab is not installed: it runs from its source."""


def normlab_version() -> str:
    """The version that is installed, or `UNKNOWN`."""
    try:
        return version("normlab")
    except PackageNotFoundError:
        return UNKNOWN
