"""What an artifact store is, and how what it holds is checked."""

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
    """Files of checkpoints, written once and verified whenever they are read.

    `ValueError` for an id or a file name that could lead out of the store.
    """

    def write(self, job_id: str, checkpoint_id: str, files: Mapping[str, bytes], expected: Mapping[str, File]) -> None:
        """Store a checkpoint whole, or not at all; writing the same one again changes nothing.

        Raises `CorruptFile` where the bytes are not the expected ones, `StorageFull` where there is no room.
        """
        ...

    def read(self, job_id: str, checkpoint_id: str, expected: Mapping[str, File]) -> dict[str, bytes]:
        """The files of a checkpoint. Raises `CorruptFile` where one is missing or not what was stored."""
        ...

    def verified(self, job_id: str, checkpoint_id: str, name: str, expected: File) -> Path:
        """Where a file lies whose bytes were checked since it was last touched. Raises `CorruptFile`."""
        ...

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> None:
        """Remove a checkpoint; one that is gone already is no error."""
        ...

    def delete_job(self, job_id: str) -> None:
        """Remove all of a job."""
        ...

    def list_jobs(self) -> Sequence[str]:
        """The jobs that have files here."""
        ...

    def list_checkpoints(self, job_id: str) -> Sequence[str]:
        """The checkpoints of a job that are here, all of them whole."""
        ...

    def remove_temporary(self, job_id: str) -> None:
        """Remove what an interrupted `write` left; nobody else may be writing for this job."""
        ...


def checked_name(name: str) -> str:
    """`name`, if it may be the name of a job, a checkpoint or a file. Raises `ValueError` where it may not."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name in the artifact store: letters, digits, and . _ - after the first")
    return name


def check_all(checkpoint_id: str, content_of: Callable[[str], bytes | None], expected: Mapping[str, File]) -> None:
    """Raise `CorruptFile` unless every expected file is there and is what is expected."""
    for name, file in expected.items():
        content = content_of(name)
        if content is None:
            raise missing(checkpoint_id, name)
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            raise differs(checkpoint_id, name)


def missing(checkpoint_id: str, name: str) -> CorruptFile:
    """What to raise for a file that is not there."""
    return CorruptFile(f"The file {name} of checkpoint {checkpoint_id} is missing.")


def differs(checkpoint_id: str, name: str) -> CorruptFile:
    """What to raise for a file with other bytes."""
    return CorruptFile(f"The file {name} of checkpoint {checkpoint_id} is not what was stored: its sha256 differs.")
