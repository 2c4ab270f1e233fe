"""Checkpoints in a folder: {root}/{job}/{checkpoint}/{file}.

A checkpoint appears by one rename, once its bytes were verified and synced to the disk: every listed one is complete,
and one that was written survives a power cut.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from service.artifacts.store import check_all, checked_name, differs, missing
from service.errors import CorruptFile, StorageFull
from worker.events import File
from worker.folders import make_folder, sync_folder

__all__ = ["LocalArtifacts"]

_TEMPORARY = ".tmp-"
_BLOCK = 1 << 20
_REMEMBERED = 4096


class LocalArtifacts:
    """An artifact store in a folder that all processes of the service share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, tuple[int, int, int, str]] = {}

    def write(self, job_id: str, checkpoint_id: str, files: Mapping[str, bytes], expected: Mapping[str, File]) -> None:
        """See `ArtifactStore.write`."""
        final = self._folder(job_id, checkpoint_id)
        check_all(checkpoint_id, files.get, expected)
        if unexpected := sorted(files.keys() - expected.keys()):
            raise CorruptFile(f"Checkpoint {checkpoint_id} came with unexpected files: {unexpected}.")
        for name in files:
            checked_name(name)
        if self._is_whole(final, expected):
            return
        temporary = final.with_name(f"{_TEMPORARY}{checkpoint_id}-{secrets.token_hex(4)}")
        try:
            make_folder(self.root)
            temporary.mkdir(parents=True)
            for name, content in files.items():
                _write_through(temporary / name, content)
            sync_folder(temporary)
            if final.exists():
                final.rename(temporary.with_name(f"{temporary.name}-replaced"))
            temporary.rename(final)
            sync_folder(final.parent)
            sync_folder(self.root)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(
                    f"There is no space for checkpoint {checkpoint_id} ({sum(map(len, files.values()))} bytes) "
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
            raise differs(checkpoint_id, name)
        if len(self._verified) >= _REMEMBERED:
            self._verified.clear()
        self._verified[str(path)] = identity
        return path

    def path(self, job_id: str, checkpoint_id: str, name: str) -> Path:
        """Return the path of a file, whether or not it exists."""
        return self._folder(job_id, checkpoint_id) / checked_name(name)

    def delete_checkpoint(self, job_id: str, checkpoint_id: str) -> None:
        """See `ArtifactStore.delete_checkpoint`."""
        folder = self._folder(job_id, checkpoint_id)
        # Renamed first, so that a partly deleted folder is never listed as a checkpoint.
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

    def free_bytes(self) -> int | None:
        """See `ArtifactStore.free_bytes`. None, too, if the system cannot tell it."""
        existing = next((place for place in (self.root, *self.root.parents) if place.exists()), self.root)
        try:
            return shutil.disk_usage(existing).free
        except OSError:
            return None

    def keep_only(self, job_id: str, keeps: Callable[[str], bool]) -> None:
        """See `ArtifactStore.keep_only`."""
        for folder in (self.root / checked_name(job_id)).glob(f"{_TEMPORARY}*"):
            if not keeps(folder.name.removeprefix(_TEMPORARY).partition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)
        for checkpoint_id in self.list_checkpoints(job_id):
            if not keeps(checkpoint_id):
                self.delete_checkpoint(job_id, checkpoint_id)

    def _folder(self, job_id: str, checkpoint_id: str) -> Path:
        return self.root / checked_name(job_id) / checked_name(checkpoint_id)

    def _is_whole(self, folder: Path, expected: Mapping[str, File]) -> bool:
        try:
            self.read(folder.parent.name, folder.name, expected)
        except CorruptFile:
            return False
        return {entry.name for entry in folder.iterdir()} == set(expected)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        for start in range(0, len(content), _BLOCK):
            file.write(content[start : start + _BLOCK])
        file.flush()
        os.fsync(file.fileno())


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
