"""Files of downloads and uploads. A written file appears once it is complete, however many are written to one path."""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


@contextlib.contextmanager
def naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Put a name into every `OSError` of the context that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(name)
        raise


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that can be read several times, also if `path` is a pipe."""
    with naming(path), path.open("rb") as file:
        if file.seekable():
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, _CHUNK)
            yield copy


def part_of(target: Path) -> Path:
    """Return the file that collects the bytes of a resumable download to `target`."""
    return target.with_name(f"{target.name}.part")


@contextlib.contextmanager
def writing(target: Path, *, resumable: bool = False) -> Iterator[BinaryIO]:
    """Yield a file for writing and reading, whose content is at `target` after the context, unless that raises.

    A regular file is replaced by the complete one. Anything else, such as a device, a pipe or a symbolic link, is
    written through, as `cp` does, once the content is complete.

    Args:
        target: The path of the content. Its folder must exist.
        resumable: Begin with the bytes of `part_of(target)`, and keep them there if the context raises. While another
            process writes to it, this one begins without any and keeps none.
    """
    with naming(target):
        if _is_written_through(target):
            # Opened first, so that a path that cannot be written is refused before the download.
            sink = os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o666), "wb")
            with sink, tempfile.TemporaryFile() as scratch:
                yield scratch
                scratch.seek(0)
                if stat.S_ISREG(os.fstat(sink.fileno()).st_mode):
                    sink.truncate(0)
                shutil.copyfileobj(scratch, sink, _CHUNK)
            return
        file = _locked(part_of(target)) if resumable else None
        kept = file is not None
        file = file or _unique(target)
        part = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                file.flush()
            if not kept or os.fstat(file.fileno()).st_size == 0:
                part.unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):  # what a full disk has refused, which has been raised already
                file.close()


def write_file(target: Path, content: bytes) -> None:
    """Write a whole file, as `writing` does."""
    with writing(target) as file:
        file.write(content)


def _is_written_through(target: Path) -> bool:
    try:
        return not stat.S_ISREG(target.lstat().st_mode)
    except FileNotFoundError:
        return False


def _unique(target: Path) -> BinaryIO:
    part = target.with_name(f".normlab-{secrets.token_hex(8)}.part")
    try:
        return open(os.fspath(part), "x+b")
    except OSError as error:
        error.filename = str(target)
        raise


def _opened_or_created(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _locked(part: Path) -> BinaryIO | None:
    """Open a file that is kept from other processes while it is open; None if another one has it, or it cannot be."""
    while True:
        try:
            file = open(os.fspath(part), "r+b", opener=_opened_or_created)  # noqa: SIM115
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            return None
        # Another process has moved it to its target since it was opened.
        file.close()
