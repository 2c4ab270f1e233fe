"""Checkpoints in an object store: the same contract as the folder, on an S3 server and in fsspec's memory."""

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from s3fs.errors import translate_boto_error

from service.artifacts import open_artifacts
from service.artifacts.objects import COMPLETE, KEPT_S, ObjectArtifacts
from service.errors import CorruptFile, StorageFull, StorageUnavailable
from tests.s3 import S3Server
from worker.events import File

FILES = {"model.safetensors": b"weights" * 1000, "state.pt": b"", "manifest.json": b"{}"}
_numbers = count(1)


def described(files: dict[str, bytes]) -> dict[str, File]:
    return {name: File(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}


EXPECTED = described(FILES)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    """An S3 server over HTTP."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty bucket, with credentials in AWS's variables and files, as the service has them."""
    for name, value in s3_server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(f"bucket{next(_numbers)}")


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectArtifacts:
    if request.param == "memory":
        opened = request.getfixturevalue("memory")
    else:
        opened = open_artifacts(f"{request.getfixturevalue('s3')}/check/points", tmp_path / "copies")
    assert isinstance(opened, ObjectArtifacts)
    return opened


@pytest.fixture
def memory(tmp_path: Path) -> ObjectArtifacts:
    """A store in memory, for tests that need no server."""
    return ObjectArtifacts(fsspec.filesystem("memory"), f"/{tmp_path.name}-{next(_numbers)}", tmp_path / "copies")


def objects(store: ObjectArtifacts) -> list[str]:
    return sorted(path.split("job", 1)[-1] for path in store._filesystem.find(store.root))


def test_the_free_space_of_an_object_store_is_not_known(store: ObjectArtifacts) -> None:
    assert store.free_bytes() is None


def test_what_was_written_is_read_back_and_may_be_written_again(store: ObjectArtifacts) -> None:
    assert store.list_jobs() == []
    assert store.list_checkpoints("job_1") == []
    for _ in range(2):
        store.write("job_1", "ckpt_1", FILES, EXPECTED)
        assert store.read("job_1", "ckpt_1", EXPECTED) == FILES
    store.write("job_1", "ckpt_2", FILES, EXPECTED)
    store.write("job_2", "ckpt_3", FILES, EXPECTED)
    assert store.list_jobs() == ["job_1", "job_2"]
    assert store.list_checkpoints("job_1") == ["ckpt_1", "ckpt_2"]


def test_a_file_is_handed_out_as_a_copy_that_was_checked(store: ObjectArtifacts, tmp_path: Path) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    for name in FILES:
        path = store.verified("job_1", "ckpt_1", name, EXPECTED[name])
        assert path == tmp_path / "copies" / "job_1" / "ckpt_1" / name
        assert path.read_bytes() == FILES[name]
    path.write_bytes(b"[]")
    assert store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"]).read_bytes() == b"{}"
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(FILES)


def test_a_copy_is_fetched_once(store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"])
    monkeypatch.setattr(store, "_filesystem", None)
    store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"])


@pytest.mark.parametrize("damage", [b"", b"W" + FILES["model.safetensors"][1:], None])
def test_a_damaged_object_is_never_handed_out(store: ObjectArtifacts, damage: bytes | None) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    path = f"{store.root}/job_1/ckpt_1/model.safetensors"
    if damage is None:
        store._filesystem.rm_file(path)
    else:
        store._filesystem.pipe_file(path, damage)
    for _ in range(2):
        with pytest.raises(CorruptFile, match=r"model\.safetensors of checkpoint ckpt_1 is"):
            store.verified("job_1", "ckpt_1", "model.safetensors", EXPECTED["model.safetensors"])
    with pytest.raises(CorruptFile):
        store.read("job_1", "ckpt_1", EXPECTED)
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert store.read("job_1", "ckpt_1", EXPECTED) == FILES


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (FILES | {"state.pt": b"torn"}, r"state\.pt of checkpoint ckpt_1 is damaged"),
        ({name: FILES[name] for name in ("state.pt", "manifest.json")}, r"model\.safetensors .* missing"),
        (FILES | {"more": b""}, "unexpected files: .*more"),
    ],
)
def test_bytes_that_are_not_the_announced_ones_leave_nothing(
    memory: ObjectArtifacts, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(CorruptFile, match=says):
        memory.write("job_1", "ckpt_1", files, EXPECTED)
    assert objects(memory) == []


def test_a_write_that_was_cut_short_is_not_listed_and_can_be_removed(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    put = store._filesystem.pipe_file

    def cut_short(path: str, content: bytes) -> None:
        if path.endswith(COMPLETE):
            raise OSError("the connection is lost")
        put(path, content)

    with monkeypatch.context() as cut:
        cut.setattr(store._filesystem, "pipe_file", cut_short)
        with pytest.raises(StorageUnavailable, match="the connection is lost"):
            store.write("job_1", "ckpt_2", FILES, EXPECTED)
    assert store.list_checkpoints("job_1") == ["ckpt_1"]
    assert len(objects(store)) == 2 * len(FILES) + 1
    store.keep_only("job_1", "ckpt_1".__eq__)
    assert objects(store) == sorted(f"_1/ckpt_1/{name}" for name in (*FILES, COMPLETE))


def test_deleting_removes_a_checkpoint_or_all_of_a_job_with_its_copies_and_may_be_repeated(
    store: ObjectArtifacts, tmp_path: Path
) -> None:
    for job, checkpoint in (("job_1", "ckpt_1"), ("job_1", "ckpt_2"), ("job_2", "ckpt_3")):
        store.write(job, checkpoint, FILES, EXPECTED)
        store.verified(job, checkpoint, "manifest.json", EXPECTED["manifest.json"])
    for _ in range(2):
        store.delete_checkpoint("job_1", "ckpt_1")
        assert store.list_checkpoints("job_1") == ["ckpt_2"]
    for _ in range(2):
        store.delete_job("job_1")
        assert store.list_jobs() == ["job_2"]
    assert objects(store) == sorted(f"_2/ckpt_3/{name}" for name in (*FILES, COMPLETE))
    copies = [path.relative_to(tmp_path / "copies") for path in (tmp_path / "copies").rglob("*") if path.is_file()]
    assert copies == [Path("job_2/ckpt_3/manifest.json")]


@pytest.mark.parametrize("name", ["../x", "..", ".complete", "a/b", "", "a\0b"])
def test_no_name_leads_out_of_the_store(memory: ObjectArtifacts, name: str) -> None:
    for attempt in (
        lambda: memory.verified(name, "ckpt_1", "file", EXPECTED["state.pt"]),
        lambda: memory.verified("job_1", "ckpt_1", name, EXPECTED["state.pt"]),
        lambda: memory.delete_job(name),
        lambda: memory.delete_checkpoint("job_1", name),
        lambda: memory.list_checkpoints(name),
        lambda: memory.keep_only(name, bool),
        lambda: memory.read("job_1", "ckpt_1", {name: EXPECTED["state.pt"]}),
        lambda: memory.write("job_1", "ckpt_1", {name: b""}, described({name: b""})),
    ):
        with pytest.raises(ValueError, match="not a valid name of an artifact"):
            attempt()
    assert objects(memory) == []


def test_the_copies_that_were_used_longest_ago_make_room(tmp_path: Path) -> None:
    size = EXPECTED["model.safetensors"].size
    memory = fsspec.filesystem("memory")
    store = ObjectArtifacts(memory, f"/{tmp_path.name}-room", tmp_path / "copies", copies_bytes=2 * size)
    for number in range(3):
        store.write("job_1", f"ckpt_{number}", FILES, EXPECTED)

    def use(number: int) -> Path:
        return store.verified("job_1", f"ckpt_{number}", "model.safetensors", EXPECTED["model.safetensors"])

    first, second = use(0), use(1)
    third = use(2)
    assert first.exists(), "what was used just now may be about to be sent"
    long_ago = time.time() - KEPT_S - 1
    for path, age in ((first, 0), (second, 1), (third, 2)):
        os.utime(path, (long_ago + age, path.stat().st_mtime))
    third.unlink()
    use(0)
    os.utime(first, (long_ago + 3, first.stat().st_mtime))
    use(2)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def refusal(code: str, message: str) -> Exception:
    """Return the error that s3fs raises if a server refuses with `code`."""
    answer = {"Error": {"Code": code, "Message": message}}
    error: Exception = translate_boto_error(ClientError(answer, "PutObject"))
    return error


@pytest.mark.parametrize(
    "error",
    [
        refusal("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
        refusal("QuotaExceeded", "The quota of the bucket is used up"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_store_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    store = ObjectArtifacts(fsspec.filesystem("memory"), f"/{tmp_path.name}-full", tmp_path)

    def refuse(path: str, content: bytes) -> None:
        raise error

    monkeypatch.setattr(store._filesystem, "pipe_file", refuse)
    with pytest.raises(StorageFull, match=r"There is no space left in .*free some space"):
        store.write("job_1", "ckpt_1", FILES, EXPECTED)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://s3:9000"),
        refusal("AccessDenied", "Access Denied"),
        refusal("SlowDown", "Please reduce your request rate"),
        TimeoutError(),
    ],
)
def test_a_store_that_is_away_is_an_error_of_the_disk_to_those_who_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = ObjectArtifacts(fsspec.filesystem("memory"), f"/{tmp_path.name}-away", tmp_path)

    def refuse(*_: Any) -> None:
        raise error

    for call in ("pipe_file", "cat_file", "get_file"):
        monkeypatch.setattr(store._filesystem, call, refuse)
    for attempt in (
        lambda: store.write("job_1", "ckpt_1", FILES, EXPECTED),
        lambda: store.read("job_1", "ckpt_1", EXPECTED),
        lambda: store.verified("job_1", "ckpt_1", "state.pt", EXPECTED["state.pt"]),
    ):
        with pytest.raises(StorageUnavailable, match="does not answer") as raised:
            attempt()
        assert isinstance(raised.value, OSError)
        assert raised.value.status == 503


def test_nobody_at_the_address_is_noticed_soon(
    s3: str, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_tcp_port}")
    store = open_artifacts(s3, tmp_path)
    with pytest.raises(StorageUnavailable, match=f"{s3.removeprefix('s3://')} does not answer"):
        store.write("job_1", "ckpt_1", FILES, EXPECTED)


def test_without_s3fs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r'NORMLAB_ARTIFACTS_URL is s3://b, .* pip install "normlab\[s3\]"'):
        open_artifacts("s3://b")
