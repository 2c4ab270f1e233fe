"""Artifact stores: the files of checkpoints, in a folder or in an object store.

All functions block; asynchronous callers run them in a thread.
"""

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.artifacts.local import LocalArtifacts
from service.artifacts.store import ArtifactStore

__all__ = ["ArtifactStore", "LocalArtifacts", "open_artifacts"]


def open_artifacts(location: str, copies: Path | None = None) -> ArtifactStore:
    """Open an artifact store.

    Args:
        location: A folder, a file:// URL, or s3://bucket/folder.
        copies: Folder for local copies of the files of an object store; by default a temporary one.

    Raises:
        ValueError: The scheme is not supported, or there is no home directory for ~.
    """
    if "://" not in location:
        try:
            return LocalArtifacts(Path(location).expanduser().absolute())
        except RuntimeError as error:
            raise ValueError(
                f"NORMLAB_ARTIFACTS_URL is {location}, and there is no such home directory: give an absolute path"
            ) from error
    url = urlsplit(location)
    if url.scheme == "s3" and url.netloc:
        from service.artifacts.objects import open_s3

        return open_s3(location, copies or Path(tempfile.gettempdir(), "normlab-artifacts"))
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
        raise ValueError(
            f"NORMLAB_ARTIFACTS_URL is {location}, and checkpoints cannot be kept there: give a folder that the "
            "dispatcher and the api share, as /path or file:///path, or s3://bucket/folder"
        )
    if url.query or url.fragment:
        raise ValueError(
            f"NORMLAB_ARTIFACTS_URL is {location}, whose path ends before the ? or #: write these characters of the "
            "path as %3F and %23, or give the path without file://"
        )
    return LocalArtifacts(Path(unquote(url.path)))
