"""The artifact store in a folder: writes are atomic, and reads are verified."""

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.artifacts import LocalArtifacts, open_artifacts
from service.errors import CorruptFile, StorageFull
from worker.events import File

FILES = {"model.safetensors": b"weights" * 100, "state.pt": b"", "manifest.json": b"{}"}


def described(files: dict[str, bytes]) -> dict[str, File]:
    return {name: File(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}


EXPECTED = described(FILES)


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "artifacts")


def everything(store: LocalArtifacts) -> list[str]:
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*"))


def test_the_free_space_is_known_before_the_folder_exists(store: LocalArtifacts, tmp_path: Path) -> None:
    assert not store.root.exists()
    free = store.free_bytes()
    assert free is not None
    assert 0 < free < shutil.disk_usage(tmp_path).total


def test_what_was_written_is_read_back(store: LocalArtifacts) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert store.read("job_1", "ckpt_1", EXPECTED) == FILES
    assert store.path("job_1", "ckpt_1", "state.pt") == store.root / "job_1" / "ckpt_1" / "state.pt"
    assert everything(store) == ["job_1", "job_1/ckpt_1", *sorted(f"job_1/ckpt_1/{name}" for name in FILES)]


def test_writing_the_same_checkpoint_again_changes_nothing(store: LocalArtifacts) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    before = store.path("job_1", "ckpt_1", "manifest.json").stat()
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    after = store.path("job_1", "ckpt_1", "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "additional"])
def test_writing_repairs_a_damaged_checkpoint(store: LocalArtifacts, damage: str) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    path = store.path("job_1", "ckpt_1", "model.safetensors")
    match damage:
        case "flipped":
            path.write_bytes(b"W" + FILES["model.safetensors"][1:])
        case "truncated":
            path.write_bytes(b"w")
        case "missing":
            path.unlink()
        case "additional":
            path.with_name("stranger").write_bytes(b"?")
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert store.read("job_1", "ckpt_1", EXPECTED) == FILES
    assert len(everything(store)) == 2 + len(FILES)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (FILES | {"state.pt": b"torn"}, r"state\.pt of checkpoint ckpt_1 is damaged"),
        ({name: FILES[name] for name in ("state.pt", "manifest.json")}, r"model\.safetensors .* missing"),
        (FILES | {"more": b""}, "unexpected files: .*more"),
    ],
)
def test_bytes_that_are_not_the_announced_ones_leave_nothing(
    store: LocalArtifacts, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(CorruptFile, match=says):
        store.write("job_1", "ckpt_1", files, EXPECTED)
    assert everything(store) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_full_disk_is_said_and_leaves_no_torn_checkpoint(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch, code: int, at: str
) -> None:
    synced = 0

    def full(descriptor: int) -> None:
        nonlocal synced
        synced += 1
        if at == "write" or synced == len(FILES) + 4:  # the last one fails after the new folder was filled
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=f"no space for checkpoint ckpt_1 .*{store.root}.*free some space") as error:
        store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert error.value.status == 507
    assert [entry for entry in everything(store) if ".tmp-" in entry] == []
    if at == "write":
        assert store.list_checkpoints("job_1") == []


def test_another_error_of_the_disk_is_passed_on_and_leaves_nothing(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert everything(store) == []


def test_bytes_and_folders_are_synced_before_and_after_the_rename(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
        fsync(descriptor)

    def watched_rename(path: Path, target: Any) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    assert steps == [store.root.parent.name.split("-")[0], *FILES, ".tmp", "rename", "job_1", "artifacts"]


@pytest.mark.parametrize("name", ["../x", "..", ".", ".tmp-1", "a/b", "/etc/passwd", "", "a\0b", "a\n", "ü", "x" * 201])
def test_no_name_leads_out_of_the_store(store: LocalArtifacts, name: str) -> None:
    for attempt in (
        lambda: store.path(name, "ckpt_1", "file"),
        lambda: store.path("job_1", name, "file"),
        lambda: store.path("job_1", "ckpt_1", name),
        lambda: store.delete_job(name),
        lambda: store.delete_checkpoint("job_1", name),
        lambda: store.list_checkpoints(name),
        lambda: store.keep_only(name, bool),
        lambda: store.read("job_1", "ckpt_1", {name: EXPECTED["state.pt"]}),
        lambda: store.write("job_1", "ckpt_1", {name: b""}, described({name: b""})),
    ):
        with pytest.raises(ValueError, match="not a valid name of an artifact"):
            attempt()
    assert everything(store) == []


@given(job=st.text(), checkpoint=st.text(), name=st.text())
def test_every_path_lies_in_its_checkpoint_or_is_refused(job: str, checkpoint: str, name: str) -> None:
    store = LocalArtifacts(Path("/srv/artifacts"))
    try:
        path = store.path(job, checkpoint, name)
    except ValueError:
        return
    assert Path(os.path.normpath(path)).parts == ("/", "srv", "artifacts", job, checkpoint, name)


@pytest.mark.parametrize("damage", [b"", b"other" * 140, None])
def test_a_damaged_file_is_never_handed_out(store: LocalArtifacts, damage: bytes | None) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    path = store.verified("job_1", "ckpt_1", "model.safetensors", EXPECTED["model.safetensors"])
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(CorruptFile, match=r"model\.safetensors of checkpoint ckpt_1 is"):
        store.verified("job_1", "ckpt_1", "model.safetensors", EXPECTED["model.safetensors"])
    with pytest.raises(CorruptFile):
        store.read("job_1", "ckpt_1", EXPECTED)


def test_a_file_is_hashed_once_until_it_is_touched(store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    hashed: list[Any] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    for _ in range(3):
        path = store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"])
    assert len(hashed) == 1
    os.utime(path, ns=(0, 0))
    store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"])
    assert len(hashed) == 2


def test_what_was_verified_for_one_digest_is_not_for_another(store: LocalArtifacts) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    store.verified("job_1", "ckpt_1", "manifest.json", EXPECTED["manifest.json"])
    with pytest.raises(CorruptFile):
        store.verified("job_1", "ckpt_1", "manifest.json", File(size=2, sha256="0" * 64))


def test_deleting_removes_a_checkpoint_or_all_of_a_job_and_may_be_repeated(store: LocalArtifacts) -> None:
    for checkpoint in ("ckpt_1", "ckpt_2"):
        store.write("job_1", checkpoint, FILES, EXPECTED)
    store.write("job_2", "ckpt_3", FILES, EXPECTED)
    for _ in range(2):
        store.delete_checkpoint("job_1", "ckpt_1")
        assert store.list_checkpoints("job_1") == ["ckpt_2"]
    for _ in range(2):
        store.delete_job("job_1")
        assert store.list_jobs() == ["job_2"]
    assert store.list_checkpoints("job_1") == []


def test_leftovers_of_an_interrupted_write_are_not_listed_and_can_be_removed(store: LocalArtifacts) -> None:
    store.write("job_1", "ckpt_1", FILES, EXPECTED)
    torn = store.root / "job_1" / ".tmp-ckpt_2-0000"
    torn.mkdir()
    (torn / "state.pt").write_bytes(b"half")
    assert store.list_checkpoints("job_1") == ["ckpt_1"]
    store.keep_only("job_1", "ckpt_1".__eq__)
    assert not torn.exists()
    assert store.read("job_1", "ckpt_1", EXPECTED) == FILES


def test_only_the_checkpoints_that_are_to_be_kept_remain(store: LocalArtifacts) -> None:
    for checkpoint in ("ckpt_1", "ckpt_2", "ckpt_3"):
        store.write("job_1", checkpoint, FILES, EXPECTED)
    (being_written := store.root / "job_1/.tmp-ckpt_3-0000").mkdir()
    (store.root / "job_1/.tmp-ckpt_1-0000-replaced").mkdir()
    store.keep_only("job_1", lambda id_: id_ > "ckpt_1")
    assert store.list_checkpoints("job_1") == ["ckpt_2", "ckpt_3"]
    assert list((store.root / "job_1").glob(".*")) == [being_written]


def test_a_store_that_was_never_written_to_is_empty(store: LocalArtifacts) -> None:
    assert store.list_jobs() == []
    assert store.list_checkpoints("job_1") == []
    store.keep_only("job_1", bool)


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_folder_is_named_by_its_path_or_its_url(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "a b?c#50%25 ü"
    store = open_artifacts(form.format(quote(str(folder)) if "file" in form else folder))
    assert isinstance(store, LocalArtifacts)
    assert store.root == folder


@pytest.mark.parametrize("url", ["file:///srv/what?/artifacts", "file:///srv/a#b"])
def test_a_url_whose_path_would_be_cut_off_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"whose path ends before the . or #: .* as %3F and %23, or give the path"):
        open_artifacts(url)


@pytest.mark.parametrize("url", ["s3:///checkpoints", "memory://", "https://host/", "file://elsewhere/srv"])
def test_a_place_that_is_not_supported_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=f"NORMLAB_ARTIFACTS_URL is {url}, .*give a folder"):
        open_artifacts(url)


def test_a_home_directory_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(ValueError, match="NORMLAB_ARTIFACTS_URL is ~/a, and there is no such home directory"):
        open_artifacts("~/a")
