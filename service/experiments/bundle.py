"""Bundles: an experiment as one file, which other installations can import and other tools can read.

A tar with `manifest.json` (version of the format and of the writer, size and SHA-256 of every other file),
`experiment.json`, `results.json` (as the API answered them), `jobs.jsonl`, `attempts.jsonl`, `metrics.jsonl`,
`events.jsonl`, `checkpoints.jsonl` (one JSON object per line), and, on request, `checkpoints/JOB/CHECKPOINT/FILE`.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from platform import python_version
from typing import Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from service.jobs import TERMINAL, Status
from worker.events import File, Precision
from worker.metrics import MetricKind
from worker.spec import TrainingSpec

__all__ = ["FORMAT", "Bundle", "BundleError", "BundleWriter"]

FORMAT = 3
"""Version of the format that is written."""
READABLE_FORMATS = (1, 2, 3)
"""Versions 1 and 2 had no `precision` of experiments and jobs. Version 1 had `worker` and `node` beside the `workers`
of an attempt, and `wish` for `requested_state`.
"""
MANIFEST = "manifest.json"
_Id = Field(pattern=r"^[a-z]{1,20}_[0-9a-z]{1,40}$")
_Count = Field(ge=0, lt=2**31)


class BundleError(ValueError):
    """The file is not a bundle, is damaged, or has an unsupported version of the format. The message says which."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentFile(_Line):
    """`experiment.json`."""

    id: str = _Id
    name: str
    request: dict[str, Any]
    priority: int
    requested_state: Literal["paused", "cancelled"] | None
    precision: Precision | None = None
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: Any) -> Any:
        if isinstance(data, dict) and "wish" in data:
            data = dict(data)
            data["requested_state"] = data.pop("wish")
        return data


class JobLine(_Line):
    """A job that has ended. The summary of its metrics is not in it: it follows from them."""

    id: str = _Id
    name: str
    notes: str = ""
    spec: dict[str, Any]
    precision: Precision | None = None
    labels: dict[str, str]
    priority: int
    max_retries: int = _Count
    cell: str | None
    retry_of: str | None
    status: Status
    error: dict[str, Any] | None
    attempt_id: str | None
    attempts: int = _Count
    failures: int = _Count
    losses: int = _Count
    progress: dict[str, Any] | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    queued_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None

    @model_validator(mode="after")
    def _has_ended_and_can_be_read(self) -> Self:
        if self.status not in TERMINAL:
            raise ValueError(f"job {self.id} is {self.status}: a bundle has jobs that have ended")
        TrainingSpec.model_validate(self.spec)
        return self


class AttemptWorker(_Line):
    """A worker of an attempt, and the host name of its node."""

    worker: str
    node: str


class AttemptLine(_Line):
    """One run of a job. `workers` has a `worker` and its `node` for each rank."""

    id: str = _Id
    job_id: str
    number: int = _Count
    workers: list[AttemptWorker]
    device: str | None
    precision: str | None
    versions: dict[str, Any] | None
    last_seq: int = _Count
    resumed_from_step: int = _Count
    started_at: AwareDatetime
    ended_at: AwareDatetime | None
    outcome: str | None
    reason: str | None

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: Any) -> Any:
        if isinstance(data, dict) and "worker" in data:
            data = dict(data)
            first = {"worker": data.pop("worker"), "node": data.pop("node", None)}
            data["workers"] = data.get("workers") or [first]
        return data


class MetricLine(_Line):
    """A row of metrics."""

    job_id: str
    attempt_id: str
    seq: int = _Count
    kind: MetricKind
    epoch: int = _Count
    step: int = _Count
    time: AwareDatetime
    values: dict[str, float | bool | None]
    superseded: bool


class EventLine(_Line):
    """An event of a job: a change of its status, its start on a worker, or a line of its log."""

    job_id: str
    attempt_id: str | None
    seq: int | None
    type: Literal["status", "started", "log"]
    time: AwareDatetime
    data: dict[str, Any]


class CheckpointLine(_Line):
    """A checkpoint. Its files are in the bundle if the export included them."""

    id: str
    job_id: str
    attempt_id: str
    epoch: int
    step: int
    metrics: dict[str, Any]
    files: dict[str, File]
    created_at: AwareDatetime


class Manifest(_Line):
    """The contents of a bundle, and the version that wrote it."""

    format: int
    experiment_id: str
    created_at: AwareDatetime
    versions: dict[str, str]
    files: dict[str, File]


Line = TypeVar("Line", bound=_Line)


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
        """Write the bundle to `path`, the manifest first."""
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

    def lines(self, name: str, kind: type[Line]) -> Iterator[Line]:
        """Yield the lines of a file, validated. Raises `BundleError` at the first invalid one."""
        file = self._tar.extractfile(self._member(name))
        assert file is not None
        with file:
            for number, line in enumerate(file, 1):
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
        try:
            written = json.loads(self._content(MANIFEST)).get("format")
        except (ValueError, AttributeError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} of the bundle is not a JSON object") from error
        if written not in READABLE_FORMATS:
            readable = f"{', '.join(map(str, READABLE_FORMATS[:-1]))} and {READABLE_FORMATS[-1]}"
            raise BundleError(f"the bundle has format {written!r}, and this version of normlab reads {readable}")
        return self._parse(MANIFEST, Manifest, self._content(MANIFEST))

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
        file = self._tar.extractfile(self._member(name))
        assert file is not None
        with file:
            return file.read()

    def _parse(self, where: str, kind: type[Line], content: bytes) -> Line:
        try:
            return kind.model_validate(from_json(content, allow_inf_nan=False))
        except ValidationError as error:
            first = error.errors()[0]
            field_ = ".".join(map(str, first["loc"]))
            raise BundleError(f"{where} of the bundle: {field_ + ': ' if field_ else ''}{first['msg']}") from error
        except ValueError as error:
            raise BundleError(f"{where} of the bundle is not JSON: {error}") from error
