"""The file of a bundle: written by `BundleWriter`, verified and read by `Bundle`.

A tar with `manifest.json` (version of the format and of the writer, size and SHA-256 of every other file),
`experiment.json`, `results.json` (as the API answered them), `jobs.jsonl`, `attempts.jsonl`, `metrics.jsonl`,
`events.jsonl`, `checkpoints.jsonl` (one JSON object per line), and, on request, `checkpoints/JOB/CHECKPOINT/FILE`.

A bundle may come from anyone: its headers are checked before `tarfile` interprets them, and nothing is read to memory
whose size is not limited.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Any, BinaryIO, Self, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from service.experiments.bundle.lines import ExperimentFile, Line, Manifest
from worker.events import File

__all__ = ["FORMAT", "Bundle", "BundleError", "BundleWriter"]

FORMAT = 4
"""Version of the format that is written."""
READABLE_FORMATS = (1, 2, 3, 4)
"""Versions 1 and 2 had no `precision` of experiments and jobs. Version 1 had `worker` and `node` beside the `workers`
of an attempt, and `wish` for `requested_state`.
"""
MANIFEST = "manifest.json"
MAX_MEMBERS = 100_000
"""Maximum number of files of a bundle."""
MAX_DOCUMENT = 32 << 20
"""Bytes of a document, which is read to memory."""
MAX_LINE = 8 << 20
"""Bytes of a line, which is read to memory."""
_MAX_EXTENSION = 1 << 16
"""Bytes of an extended header, which holds a long name."""


class BundleError(ValueError):
    """The file is not a bundle, is damaged, or has an unsupported version of the format. The message says which."""


Kind = TypeVar("Kind", bound=Line)


@dataclass
class BundleWriter:
    """Collects the files of a bundle in `folder`, and packs them."""

    folder: Path
    _files: dict[str, File] = field(default_factory=dict)
    _paths: dict[str, Path] = field(default_factory=dict)

    def add_document(self, name: str, document: Any) -> None:
        """Add a file with one JSON document."""
        with self.lines(name) as add:
            add([json.dumps(document, indent=1, ensure_ascii=False)])

    @contextmanager
    def lines(self, name: str) -> Iterator[Callable[[Iterable[str]], None]]:
        """Add a file with one JSON document per line, in parts."""
        digest, size = hashlib.sha256(), 0
        path = self.folder / name

        def add(lines: Iterable[str]) -> None:
            nonlocal size
            for line in lines:
                content = line.encode() + b"\n"
                digest.update(content)
                size += len(content)
                file.write(content)

        with path.open("wb") as file:
            yield add
        self.add_file(name, path, File(size=size, sha256=digest.hexdigest()))

    def add_file(self, name: str, path: Path, file: File) -> None:
        """Add a file outside of `folder`, whose size and SHA-256 are known."""
        self._files[name], self._paths[name] = file, path

    def pack(self, path: Path, experiment_id: str, version: str) -> None:
        """Write the bundle to `path`, the manifest first.

        Raises:
            BundleError: It would have more files than a bundle may have.
        """
        if len(self._files) >= MAX_MEMBERS:
            raise BundleError(
                f"it would have {len(self._files) + 1} files, and a bundle has {MAX_MEMBERS} at most: "
                "choose fewer checkpoints"
            )
        manifest = Manifest(
            format=FORMAT,
            experiment_id=experiment_id,
            created_at=datetime.now(UTC),
            versions={"normlab": version, "python": python_version()},
            files=self._files,
        )
        scratch = self.folder / MANIFEST
        scratch.write_text(manifest.model_dump_json(indent=1))
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, source in {MANIFEST: scratch, **self._paths}.items():
                tar.add(source, arcname=name, recursive=False, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


class Bundle:
    """A bundle for reading, as a context manager. Nothing is unpacked, and everything is verified before use.

    Raises `BundleError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            with self._path.open("rb") as file:
                _check_headers(file)
            self._tar = tarfile.open(self._path, "r:")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise BundleError(f"this is not a bundle: it cannot be read as a tar archive ({error})") from error
        try:
            self._members = self._list()
            self.manifest = self._read_manifest()
            self._verify()
        except (tarfile.TarError, OSError, EOFError) as error:
            self._tar.close()
            raise BundleError(f"the bundle is damaged: {error}") from error
        except BundleError:
            self._tar.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._tar.close()

    @property
    def experiment(self) -> ExperimentFile:
        """The content of `experiment.json`."""
        return self._parse("experiment.json", ExperimentFile, self._content("experiment.json"))

    def lines(self, name: str, kind: type[Kind]) -> Iterator[Kind]:
        """Yield the lines of a file, validated. Raises `BundleError` at the first invalid one."""
        file = self._tar.extractfile(self._member(name))
        assert file is not None
        with file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    raise BundleError(f"{name}, line {number} of the bundle is longer than {MAX_LINE} bytes")
                yield self._parse(f"{name}, line {number}", kind, line)

    def _list(self) -> dict[str, tarfile.TarInfo]:
        members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar:
            if not member.isreg():
                raise BundleError(f"the bundle has {member.name!r}, which is not a regular file")
            if member.name in members:
                raise BundleError(f"the bundle has {member.name!r} twice")
            members[member.name] = member
        return members

    def _read_manifest(self) -> Manifest:
        content = self._content(MANIFEST)
        try:
            written = json.loads(content).get("format")
        except (ValueError, AttributeError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} of the bundle is not a JSON object") from error
        if written not in READABLE_FORMATS:
            readable = f"{', '.join(map(str, READABLE_FORMATS[:-1]))} and {READABLE_FORMATS[-1]}"
            raise BundleError(f"the bundle has format {written!r}, and this version of normlab reads {readable}")
        return self._parse(MANIFEST, Manifest, content)

    def _verify(self) -> None:
        listed = set(self.manifest.files) | {MANIFEST}
        if strange := sorted(self._members.keys() - listed):
            raise BundleError(f"the bundle has {strange[0]!r}, which its manifest does not list")
        for name, expected in self.manifest.files.items():
            file = self._tar.extractfile(self._member(name))
            assert file is not None
            with file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            if (self._members[name].size, digest) != (expected.size, expected.sha256):
                raise BundleError(f"{name} of the bundle is damaged: its size or sha256 differs from the manifest")

    def _member(self, name: str) -> tarfile.TarInfo:
        if name not in self._members:
            raise BundleError(f"the bundle has no {name}")
        return self._members[name]

    def _content(self, name: str) -> bytes:
        member = self._member(name)
        if member.size > MAX_DOCUMENT:
            raise BundleError(f"{name} of the bundle has {member.size} bytes, and may have {MAX_DOCUMENT}")
        file = self._tar.extractfile(member)
        assert file is not None
        with file:
            return file.read()

    def _parse(self, where: str, kind: type[Kind], content: bytes) -> Kind:
        try:
            return kind.model_validate(from_json(content, allow_inf_nan=False))
        except ValidationError as error:
            first = error.errors()[0]
            field_ = ".".join(map(str, first["loc"]))
            raise BundleError(f"{where} of the bundle: {field_ + ': ' if field_ else ''}{first['msg']}") from error
        except ValueError as error:
            raise BundleError(f"{where} of the bundle is not JSON: {error}") from error


def _check_headers(file: BinaryIO) -> None:
    """Check the headers of a tar: regular files within the archive, and extended headers that hold a long name.

    `tarfile` would read an extended header of any size to memory, and expand a sparse file of a few bytes without end.

    Raises:
        BundleError: One of them is something else, or there are too many.
        tarfile.TarError: One of them is damaged.
    """
    size, members = file.seek(0, os.SEEK_END), 0
    file.seek(0)
    while (header := file.read(tarfile.BLOCKSIZE)) and any(header):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if not 0 <= member.size <= size - file.tell():
            raise tarfile.ReadError("unexpected end of data")
        if member.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            content = file.read(member.size) if member.size <= _MAX_EXTENSION else None
            if content is None or b"size=" in content or b"GNU.sparse" in content:
                raise BundleError("the bundle has an extended header that is not a name and a time")
        else:
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise BundleError(f"the bundle has {member.name!r}, which is not a regular file")
            members += 1
            if members > MAX_MEMBERS:
                raise BundleError(f"the bundle has more than {MAX_MEMBERS} files")
            file.seek(member.size, os.SEEK_CUR)
        file.seek(-member.size % tarfile.BLOCKSIZE, os.SEEK_CUR)
