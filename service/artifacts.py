"""Where the files of checkpoints are kept: {root}/{job}/{checkpoint}/{file}.

A checkpoint appears by one rename, after its bytes were checked and are on the disk: what can be listed is whole. Every
function blocks; asynchronous callers run them in a thread.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from service.errors import CorruptFile, StorageFull
from worker.events import File

__all__ = ["ArtifactStore", "CorruptFile", "LocalArtifacts", "StorageFull", "open_artifacts"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_TEMPORARY = ".tmp-"
_BLOCK = 1 << 20
_REMEMBERED = 4096


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


class LocalArtifacts:
    """An artifact store in a folder, which all processes of the service share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, tuple[int, int, int, str]] = {}

    def write(self, job_id: str, checkpoint_id: str, files: Mapping[str, bytes], expected: Mapping[str, File]) -> None:
        """See `ArtifactStore.write`."""
        final = self._folder(job_id, checkpoint_id)
        check_all(checkpoint_id, files.get, expected)
        if unexpected := sorted(files.keys() - expected.keys()):
            raise CorruptFile(f"Checkpoint {checkpoint_id} came with files that nobody announced: {unexpected}.")
        for name in files:
            checked_name(name)
        if self._is_whole(final, expected):
            return
        temporary = final.with_name(f"{_TEMPORARY}{checkpoint_id}-{secrets.token_hex(4)}")
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                _write_through(temporary / name, content)
            _sync_folder(temporary)
            if final.exists():
                final.rename(temporary.with_name(f"{temporary.name}-replaced"))
            temporary.rename(final)
            _sync_folder(final.parent)
            _sync_folder(self.root)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"There is no room for checkpoint {checkpoint_id} ({sum(map(len, files.values()))} bytes) "
                    f"in {self.root}: free some space, or delete jobs that are no longer needed."
                ) from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(temporary.with_name(f"{temporary.name}-replaced"), ignore_errors=True)

    def read(self, job_id: str, checkpoint_id: str, expected: Mapping[str, File]) -> dict[str, bytes]:
        """See `ArtifactStore.read`."""
        folder = self._folder(job_id, checkpoint_id)
        files: dict[str, bytes] = {}
        for name in expected:
            with suppress(FileNotFoundError):
                files[name] = (folder / checked_name(name)).read_bytes()
        check_all(checkpoint_id, files.get, expected)
        return files

    def verified(self, job_id: str, checkpoint_id: str, name: str, expected: File) -> Path:
        """See `ArtifactStore.verified`. A file is read again only after its size, time or inode changed."""
        path = self.path(job_id, checkpoint_id, name)
        try:
            found = path.stat()
            identity = (found.st_size, found.st_mtime_ns, found.st_ino, expected.sha256)
            if self._verified.get(str(path)) == identity:
                return path
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise missing(checkpoint_id, name) from error
        if (found.st_size, digest) != (expected.size, expected.sha256):
            raise _differs(checkpoint_id, name)
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[str(path)] = identity
        return path

    def path(self, job_id: str, checkpoint_id: str, name: str) -> Path:
        """Where a file lies, if it is there."""
        return self._folder(job_id, checkpoint_id) / checked_name(name)

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> None:
        """See `ArtifactStore.delete_checkpoint`."""
        folder = self._folder(job_id, checkpoint_id)
        # Renamed first: what is half deleted must not look like a checkpoint.
        doomed = folder.with_name(f"{_TEMPORARY}{checkpoint_id}-{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def delete_job(self, job_id: str) -> None:
        """See `ArtifactStore.delete_job`."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / checked_name(job_id))

    def list_jobs(self) -> Sequence[str]:
        """See `ArtifactStore.list_jobs`."""
        return _names(self.root)

    def list_checkpoints(self, job_id: str) -> Sequence[str]:
        """See `ArtifactStore.list_checkpoints`."""
        return _names(self.root / checked_name(job_id))

    def remove_temporary(self, job_id: str) -> None:
        """See `ArtifactStore.remove_temporary`."""
        for folder in (self.root / checked_name(job_id)).glob(f"{_TEMPORARY}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, job_id: str, checkpoint_id: str) -> Path:
        return self.root / checked_name(job_id) / checked_name(checkpoint_id)

    def _is_whole(self, folder: Path, expected: Mapping[str, File]) -> bool:
        try:
            self.read(folder.parent.name, folder.name, expected)
        except CorruptFile:
            return False
        return {entry.name for entry in folder.iterdir()} == set(expected)


def open_artifacts(location: str, copies: Path | None = None) -> ArtifactStore:
    """The artifact store at a folder, a file:// URL, or s3://bucket/folder.

    Of a store that is elsewhere, files are handed out from copies in a folder, by default a temporary one. Raises
    `ValueError` for a scheme that is not supported.
    """
    if "://" not in location:
        return LocalArtifacts(Path(location).expanduser().absolute())
    url = urlsplit(location)
    if url.scheme == "s3" and url.netloc:
        from service.object_artifacts import open_s3

        return open_s3(location, copies or Path(tempfile.gettempdir(), "normlab-artifacts"))
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
        raise ValueError(
            f"NORMLAB_ARTIFACTS_URL is {location}, and checkpoints cannot be kept there: give a folder that the "
            "dispatcher and the api share, as /path or file:///path, or s3://bucket/folder"
        )
    return LocalArtifacts(Path(unquote(url.path)))


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
            raise _differs(checkpoint_id, name)


def missing(checkpoint_id: str, name: str) -> CorruptFile:
    """What to raise for a file that is not there."""
    return CorruptFile(f"The file {name} of checkpoint {checkpoint_id} is missing.")


def _differs(checkpoint_id: str, name: str) -> CorruptFile:
    return CorruptFile(f"The file {name} of checkpoint {checkpoint_id} is not what was stored: its sha256 differs.")


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        for start in range(0, len(content), _BLOCK):
            file.write(content[start : start + _BLOCK])
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
