"""The protocol of artifact stores, and the verification of files."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from service.errors import CorruptFile
from worker.events import File

__all__ = ["ArtifactStore", "check_all", "checked_name", "differs", "missing"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class ArtifactStore(Protocol):
    """The files of checkpoints. They are written once, and verified whenever they are read.

    All methods raise `ValueError` for an id or a file name that could lead out of the store.
    """

    def write(self, job_id: str, checkpoint_id: str, files: Mapping[str, bytes], expected: Mapping[str, File]) -> None:
        """Store a checkpoint atomically. Idempotent.

        Raises:
            CorruptFile: The bytes are not the expected ones.
            StorageFull: The storage has no space left.
        """
        ...

    def read(self, job_id: str, checkpoint_id: str, expected: Mapping[str, File]) -> dict[str, bytes]:
        """Return the files of a checkpoint. Raises `CorruptFile` if one is missing or damaged."""
        ...

    def verified(self, job_id: str, checkpoint_id: str, name: str, expected: File) -> Path:
        """Return the path of a local file that was verified since its last change. Raises `CorruptFile`."""
        ...

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> None:
        """Remove a checkpoint, if it exists."""
        ...

    def delete_job(self, job_id: str) -> None:
        """Remove all checkpoints of a job."""
        ...

    def list_jobs(self) -> Sequence[str]:
        """Return the ids of the jobs that have files."""
        ...

    def list_checkpoints(self, job_id: str) -> Sequence[str]:
        """Return the ids of the complete checkpoints of a job."""
        ...

    def free_bytes(self) -> int | None:
        """Return the free space on the file system of the store in bytes; None if it is not a folder."""
        ...

    def keep_only(self, job_id: str, keeps: Callable[[str], bool]) -> None:
        """Remove the checkpoints of a job, complete or not, for whose ids `keeps` returns False."""
        ...


def checked_name(name: str) -> str:
    """Return `name` if it is a valid name of a job, a checkpoint or a file. Raises `ValueError` if not."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid name of an artifact: give letters, digits, . _ - and no . or - first"
        )
    return name


def check_all(checkpoint_id: str, content_of: Callable[[str], bytes | None], expected: Mapping[str, File]) -> None:
    """Raise `CorruptFile` unless every expected file exists with the expected size and sha256."""
    for name, file in expected.items():
        content = content_of(name)
        if content is None:
            raise missing(checkpoint_id, name)
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            raise differs(checkpoint_id, name)


def missing(checkpoint_id: str, name: str) -> CorruptFile:
    """Return the error for a missing file."""
    return CorruptFile(f"The file {name} of checkpoint {checkpoint_id} is missing.")


def differs(checkpoint_id: str, name: str) -> CorruptFile:
    """Return the error for a file whose bytes differ."""
    return CorruptFile(
        f"The file {name} of checkpoint {checkpoint_id} is damaged: its sha256 differs from the stored one."
    )
