"""Checkpoints in an object store (S3, by fsspec): {root}/{job}/{checkpoint}/{file}.

Objects cannot be renamed together, so a checkpoint exists once its last object does, the empty `.complete`. Callers get
a copy on the local disk that was verified after it was fetched, so that a download never sends unverified bytes. The
copies that were used last are kept.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service.artifacts.local import LocalArtifacts
from service.artifacts.store import check_all, checked_name, missing
from service.errors import CorruptFile, StorageFull, StorageUnavailable
from worker.events import File
from worker.folders import make_folder

__all__ = ["ObjectArtifacts", "open_s3"]

COMPLETE = ".complete"
FULL = ("QuotaExceeded", "StorageFull", "InsufficientStorage", "No space left", "minimum free drive")
"""Texts in the errors of S3 servers that have no space left. Amazon S3 has no such error."""
COPIES_BYTES = 4 << 30
"""Beyond this total, the least recently used copies are removed."""
KEPT_S = 600
"""A copy that was used within this time is not removed, because it may be about to be sent."""


class ObjectArtifacts:
    """An artifact store in an object store.

    Args:
        filesystem: A file system of fsspec, without a cache of listings.
        root: A path in it.
        copies: Folder for local copies, which replicas may share.
        copies_bytes: Size that the copies may have together.
    """

    def __init__(self, filesystem: Any, root: str, copies: Path, copies_bytes: int = COPIES_BYTES) -> None:
        self._filesystem = filesystem
        self.root = root.rstrip("/")
        self._copies = LocalArtifacts(copies)
        self._copies_bytes = copies_bytes

    def write(self, job_id: str, checkpoint_id: str, files: Mapping[str, bytes], expected: Mapping[str, File]) -> None:
        """See `ArtifactStore.write`."""
        folder = self._folder(job_id, checkpoint_id)
        check_all(checkpoint_id, files.get, expected)
        if unexpected := sorted(files.keys() - expected.keys()):
            raise CorruptFile(f"Checkpoint {checkpoint_id} came with unexpected files: {unexpected}.")
        for name in files:
            checked_name(name)
        with self._reaching():
            for name, content in files.items():
                self._filesystem.pipe_file(f"{folder}/{name}", content)
            self._filesystem.pipe_file(f"{folder}/{COMPLETE}", b"")

    def read(self, job_id: str, checkpoint_id: str, expected: Mapping[str, File]) -> dict[str, bytes]:
        """See `ArtifactStore.read`."""
        folder = self._folder(job_id, checkpoint_id)
        files: dict[str, bytes] = {}
        for name in map(checked_name, expected):
            with suppress(FileNotFoundError), self._reaching():
                files[name] = self._filesystem.cat_file(f"{folder}/{name}")
        check_all(checkpoint_id, files.get, expected)
        return files

    def verified(self, job_id: str, checkpoint_id: str, name: str, expected: File) -> Path:
        """See `ArtifactStore.verified`. Returns a copy, which is fetched if it is missing or damaged."""
        source = f"{self._folder(job_id, checkpoint_id)}/{checked_name(name)}"
        try:
            path = self._copies.verified(job_id, checkpoint_id, name, expected)
        except CorruptFile:
            self._make_room(expected.size)
            self._fetch(source, self._copies.path(job_id, checkpoint_id, name), missing(checkpoint_id, name))
            path = self._copies.verified(job_id, checkpoint_id, name, expected)
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> None:
        """See `ArtifactStore.delete_checkpoint`."""
        folder = self._folder(job_id, checkpoint_id)
        # The last object first, so that a partly deleted checkpoint is never listed.
        with suppress(FileNotFoundError), self._reaching():
            self._filesystem.rm_file(f"{folder}/{COMPLETE}")
        with suppress(FileNotFoundError), self._reaching():
            self._filesystem.rm(folder, recursive=True)
        self._copies.delete_checkpoint(job_id, checkpoint_id)

    def delete_job(self, job_id: str) -> None:
        """See `ArtifactStore.delete_job`."""
        folder = f"{self.root}/{checked_name(job_id)}"
        with suppress(FileNotFoundError), self._reaching():
            self._filesystem.rm(folder, recursive=True)
        self._copies.delete_job(job_id)

    def list_jobs(self) -> Sequence[str]:
        """See `ArtifactStore.list_jobs`."""
        try:
            with self._reaching():
                found = self._filesystem.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found} - {""})

    def list_checkpoints(self, job_id: str) -> Sequence[str]:
        """See `ArtifactStore.list_checkpoints`."""
        return sorted(name for name, files in self._checkpoints(job_id).items() if COMPLETE in files)

    def free_bytes(self) -> int | None:
        """See `ArtifactStore.free_bytes`."""
        return None

    def keep_only(self, job_id: str, keeps: Callable[[str], bool]) -> None:
        """See `ArtifactStore.keep_only`."""
        for checkpoint_id in self._checkpoints(job_id):
            if not keeps(checkpoint_id):
                self.delete_checkpoint(job_id, checkpoint_id)

    def _folder(self, job_id: str, checkpoint_id: str) -> str:
        return f"{self.root}/{checked_name(job_id)}/{checked_name(checkpoint_id)}"

    def _checkpoints(self, job_id: str) -> dict[str, set[str]]:
        """Return all checkpoints of a job, complete or not, with the names of their objects."""
        folder = f"{self.root}/{checked_name(job_id)}"
        with self._reaching():
            found = self._filesystem.find(folder)
        checkpoints: dict[str, set[str]] = {}
        for path in found:
            parts = path.split("/")
            checkpoints.setdefault(parts[-2], set()).add(parts[-1])
        return checkpoints

    def _fetch(self, source: str, copy: Path, absent: CorruptFile) -> None:
        make_folder(copy.parent)
        temporary = copy.with_name(f".tmp-{copy.name}-{secrets.token_hex(4)}")
        try:
            with self._reaching():
                self._filesystem.get_file(source, str(temporary))
            temporary.rename(copy)
        except FileNotFoundError as error:
            raise absent from error
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used copies until there is space for `size` more bytes."""
        copies = []
        for path in self._copies.root.glob("*/*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                copies.append((found.st_atime, found.st_size, path))
        excess = sum(copy[1] for copy in copies) + size - self._copies_bytes
        for used, freed, path in sorted(copies):
            if excess <= 0 or used > time.time() - KEPT_S:
                return
            path.unlink(missing_ok=True)
            excess -= freed

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Convert errors of the object store to `StorageFull` or `StorageUnavailable`, except `FileNotFoundError`."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or any(sign in f"{reason} {error.__cause__}" for sign in FULL):
                raise StorageFull(
                    f"There is no space left in {self.root} ({reason}): "
                    "free some space, or delete jobs that are no longer needed."
                ) from error
            raise StorageUnavailable(f"The artifact store at {self.root} does not answer ({reason}).") from error


def open_s3(location: str, copies: Path) -> ObjectArtifacts:
    """Open the store at s3://bucket/folder with s3fs, which reads AWS_ENDPOINT_URL and the usual AWS credentials.

    Raises:
        ValueError: s3fs is not installed.
    """
    try:
        from s3fs import S3FileSystem
    except ModuleNotFoundError as error:
        raise ValueError(
            f'NORMLAB_ARTIFACTS_URL is {location}, and s3fs is not installed: pip install "normlab[s3]"'
        ) from error
    # An unreachable store must be detected well within the lease of the worker whose checkpoint waits.
    patience = {"connect_timeout": 3, "read_timeout": 15, "retries": {"max_attempts": 1}}
    filesystem = S3FileSystem(config_kwargs=patience, use_listings_cache=False, skip_instance_cache=True)
    filesystem.retries = 2
    return ObjectArtifacts(filesystem, location.removeprefix("s3://"), copies)
