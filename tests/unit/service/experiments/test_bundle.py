"""A bundle is read exactly as it was written, or refused."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.experiments.bundle import Bundle, BundleError, BundleWriter, archive
from service.experiments.bundle.lines import AttemptLine, JobLine
from service.jobs import JobRequest, Status
from worker.events import File

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EXPERIMENT = {
    "id": "exp_1",
    "name": "Grüße",
    "request": {"base": {"normalization": {"type": "group"}, "batch_size": 2}, "grid": {"seed": [0]}},
    "priority": 0,
    "requested_state": None,
    "created_at": NOW.isoformat(),
    "updated_at": NOW.isoformat(),
}
JOB: dict[str, Any] = {
    "id": "job_1",
    "name": "one",
    "notes": "",
    "precision": "float32",
    "spec": JobRequest.model_validate({"normalization": {"type": "group"}, "batch_size": 2}).training.model_dump(
        mode="json"
    ),
    "labels": {"study": "paper"},
    "priority": 0,
    "max_retries": 2,
    "cell": "c",
    "retry_of": None,
    "status": Status.SUCCEEDED,
    "error": None,
    "attempt_id": "attempt_1",
    "attempts": 1,
    "failures": 0,
    "losses": 0,
    "progress": None,
    **{f"{name}_at": NOW for name in ("created", "updated", "queued", "started", "finished")},
}
WEIGHTS = bytes(range(256)) * 100


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle of one job."""

    def write(**changed: Any) -> Path:
        (folder := tmp_path / "parts").mkdir(exist_ok=True)
        writer = BundleWriter(folder)
        writer.add_document("experiment.json", EXPERIMENT)
        with writer.lines("jobs.jsonl") as add:
            add([JobLine.model_construct(**(JOB | changed)).model_dump_json(warnings=False)])
        weights = tmp_path / "weights"
        weights.write_bytes(WEIGHTS)
        file = File(size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
        writer.add_file("checkpoints/job_1/checkpoint_1/model.safetensors", weights, file)
        path = tmp_path / "bundle.tar"
        writer.pack(path, "exp_1", "0.1.0")
        return path

    return write


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], kind: bytes = tarfile.REGTYPE) -> None:
    """Return the bundle with replaced members."""
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), tarfile.REGTYPE if name.endswith("json") else kind
            tar.addfile(member, io.BytesIO(content))


def refused(path: Path) -> str:
    def read() -> None:
        with Bundle(path) as bundle:
            assert bundle.experiment
            assert list(bundle.lines("jobs.jsonl", JobLine))

    with pytest.raises(BundleError) as refusal:
        read()
    return str(refusal.value)


def test_what_is_written_reads_back(write: Callable[..., Path]) -> None:
    with Bundle(write()) as bundle:
        assert bundle.experiment.name == "Grüße"
        assert [job.model_dump() for job in bundle.lines("jobs.jsonl", JobLine)] == [JOB]
        assert bundle.manifest.experiment_id == "exp_1"
        assert bundle.manifest.versions["normlab"] == "0.1.0"


def test_the_manifest_comes_first_and_lists_every_file_with_its_sha256(write: Callable[..., Path]) -> None:
    with tarfile.open(write()) as tar:
        names = tar.getnames()
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    assert names[0] == "manifest.json"
    files = json.loads(contents.pop("manifest.json"))["files"]
    assert files == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }


def test_a_bundle_does_not_identify_its_author(write: Callable[..., Path]) -> None:
    with tarfile.open(write()) as tar:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, "", "", 0o644)}


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no tar" * 200)
    assert "not a bundle" in refused(tmp_path / "file")
    assert "not a bundle" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.7])
def test_a_bundle_that_was_cut_is_refused(write: Callable[..., Path], kept: float) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(path)


def test_a_changed_file_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    rewrite(path, lambda members: members.update({"jobs.jsonl": members["jobs.jsonl"].replace(b"one", b"two")}))
    assert "jobs.jsonl of the bundle is damaged" in refused(path)


def test_a_missing_file_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    rewrite(path, lambda members: members.__delitem__("experiment.json"))
    assert "no experiment.json" in refused(path)


def test_a_file_that_the_manifest_does_not_list_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    rewrite(path, lambda members: members.update({"../strange.json": b"{}"}))
    assert "'../strange.json', which its manifest does not list" in refused(path)


def test_a_member_that_is_no_plain_file_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    rewrite(path, lambda members: None, tarfile.SYMTYPE)
    assert "not a regular file" in refused(path)


def test_another_format_is_refused(write: Callable[..., Path]) -> None:
    path = write()

    def newer(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(b'"format": 4', b'"format": 5')

    rewrite(path, newer)
    assert refused(path) == "the bundle has format 5, and this version of normlab reads 1, 2, 3 and 4"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": Status.RUNNING}, "job job_1 is running"),
        ({"spec": JOB["spec"] | {"batch_size": -1}}, "batch_size"),
        ({"id": "../../etc"}, "id"),
        ({"attempts": 2**40}, "attempts"),
        ({"priority": 10**30}, "priority"),
        ({"priority": 1001}, "priority"),
        ({"max_retries": 21}, "max_retries"),
        ({"name": "x" * 201}, "name"),
        ({"notes": "x" * 10_001}, "notes"),
        ({"labels": {"a:b": "c"}}, "labels"),
        ({"labels": {str(number): "x" for number in range(33)}}, "labels"),
        ({"error": {"message": "no code"}}, "error.code"),
        ({"progress": {"epoch": "one", "step": "two"}}, "progress.epoch"),
        ({"progress": {"epoch": 1, "step": 10**30}}, "progress.step"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at"),
        ({"created_at": "9999-12-31T23:59:59-14:00"}, "created_at"),
        ({"retry_of": ""}, "retry_of"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_refused(
    write: Callable[..., Path], changed: dict[str, Any], said: str
) -> None:
    message = refused(write(**changed))
    assert message.startswith("jobs.jsonl, line 1 of the bundle")
    assert said in message


@pytest.mark.parametrize("content", [b"[" * 100_000, b"NaN", b'{"format": ' + b"9" * 5000 + b"}", b"\xe9", b""])
def test_a_manifest_that_cannot_be_read_is_refused(write: Callable[..., Path], content: bytes) -> None:
    path = write()
    rewrite(path, lambda members: members.update({"manifest.json": content}))
    assert refused(path) == "manifest.json of the bundle is not a JSON object"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"progress": ' + b"[" * 100_000, "recursion limit"),
        (b'{"progress": {"step": NaN}}', "is not JSON: expected value"),
        (b'{"name": "\xe9"}', "is not JSON: invalid unicode"),
        (b'{"name": "\\ud800"}', "is not JSON: "),
    ],
)
def test_a_line_that_cannot_be_read_is_refused(write: Callable[..., Path], content: bytes, said: str) -> None:
    path = write()

    def replace(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest["files"]["jobs.jsonl"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        members |= {"jobs.jsonl": content, "manifest.json": json.dumps(manifest).encode()}

    rewrite(path, replace)
    assert refused(path).startswith("jobs.jsonl, line 1 of the bundle")
    assert said in refused(path)


def test_a_spec_without_defaults_is_completed(write: Callable[..., Path]) -> None:
    given = {name: JOB["spec"][name] for name in ("normalization", "batch_size", "epochs")}
    with Bundle(write(spec=given)) as bundle:
        (job,) = bundle.lines("jobs.jsonl", JobLine)
    assert job.spec == JOB["spec"]


def headers(*members: tuple[str, bytes, int, bytes]) -> bytes:
    """Return a tar of members with a name, a type, a size, and a content that need not have this size."""
    content = b""
    for name, kind, size, data in members:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        content += member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    return content + bytes(2 * tarfile.BLOCKSIZE)


HUGE = 1 << 50
EXTENDED = "the bundle has an extended header that is not a name and a time"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (headers(("manifest.json", tarfile.GNUTYPE_SPARSE, 0, b"")), "which is not a regular file"),
        (headers(("manifest.json", tarfile.REGTYPE, HUGE, b"{}")), "unexpected end of data"),
        (headers(("manifest.json", tarfile.REGTYPE, -512, b"{}")), "unexpected end of data"),
        (headers(("x", tarfile.XHDTYPE, 1 << 17, bytes(1 << 17))), EXTENDED),
        (headers(("x", tarfile.GNUTYPE_LONGNAME, 1 << 17, bytes(1 << 17))), EXTENDED),
        (headers(("x", tarfile.XHDTYPE, 22, b"22 GNU.sparse.major=1\n")), EXTENDED),
        (headers(("x", tarfile.XHDTYPE, 26, b"26 size=1125899906842624\n")), EXTENDED),
        (headers(("x", tarfile.XGLTYPE, 26, b"26 size=1125899906842624\n")), "which is not a regular file"),
        (headers(("x", tarfile.REGTYPE, 0, b""), ("x", tarfile.REGTYPE, 0, b"")), "'x' twice"),
    ],
)
def test_an_archive_that_expands_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bundle.tar"
    path.write_bytes(content)
    assert said in refused(path)


def test_what_is_read_to_memory_is_limited(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MAX_LINE", 100)
        assert refused(path) == "jobs.jsonl, line 1 of the bundle is longer than 100 bytes"
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MAX_DOCUMENT", 100)
        assert "and may have 100" in refused(path)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    assert refused(path) == "the bundle has more than 3 files"
    with pytest.raises(BundleError, match="has 3 at most: choose fewer checkpoints"):
        write()


def test_a_field_that_is_not_known_is_refused(write: Callable[..., Path]) -> None:
    with Bundle(write()) as bundle, pytest.raises(BundleError, match=r"jobs\.jsonl, line 1 of the bundle: job_id"):
        next(bundle.lines("jobs.jsonl", AttemptLine))
