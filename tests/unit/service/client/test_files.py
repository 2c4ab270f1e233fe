"""Files that a download writes: complete or not there, side by side, and through devices, pipes and links."""

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from service.client.files import naming, part_of, write_file, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Interrupted(Exception):
    pass


def interrupt(target: Path, content: bytes, *, resumable: bool) -> None:
    """Write a part of a file, and break off."""
    with contextlib.suppress(Interrupted), writing(target, resumable=resumable) as file:
        file.write(content)
        raise Interrupted


@pytest.mark.parametrize("resumable", [False, True])
class TestWriting:
    def test_replaces_a_file_once_it_is_complete(self, tmp_path: Path, resumable: bool) -> None:
        target = tmp_path / "w"
        target.write_bytes(b"before")
        target.chmod(0o640)
        with writing(target, resumable=resumable) as file:
            file.write(b"after")
            assert target.read_bytes() == b"before"
        assert target.read_bytes() == b"after"
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert names(tmp_path) == ["w"]

    def test_leaves_the_file_as_it_was_if_it_fails(self, tmp_path: Path, resumable: bool) -> None:
        target = tmp_path / "w"
        target.write_bytes(b"before")
        interrupt(target, b"half", resumable=resumable)
        assert target.read_bytes() == b"before"
        assert names(tmp_path) == (["w", "w.part"] if resumable else ["w"])

    def test_several_to_one_path_do_not_disturb_each_other(self, tmp_path: Path, resumable: bool) -> None:
        target = tmp_path / "w"
        with writing(target, resumable=resumable) as first, writing(target, resumable=resumable) as second:
            with writing(target, resumable=resumable) as third:
                for content, file in zip((b"a", b"b", b"c"), (first, second, third), strict=True):
                    file.write(content * 10_000)
            assert target.read_bytes() == b"c" * 10_000
        assert target.read_bytes() == b"a" * 10_000
        assert names(tmp_path) == ["w"]

    def test_writes_through_a_link(self, tmp_path: Path, resumable: bool) -> None:
        (tmp_path / "link").symlink_to("there")
        for content in (b"a longer one", b"a new one"):
            with writing(tmp_path / "link", resumable=resumable) as file:
                file.write(content)
            assert (tmp_path / "there").read_bytes() == content
        interrupt(tmp_path / "link", b"half", resumable=resumable)
        assert (tmp_path / "there").read_bytes() == b"a new one"
        assert (tmp_path / "link").is_symlink()
        assert names(tmp_path) == ["link", "there"]

    def test_writes_through_a_pipe(self, tmp_path: Path, resumable: bool) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
        reader.start()
        with writing(pipe, resumable=resumable) as file:
            file.write(b"content")
        reader.join()
        assert read == [b"content"]
        assert pipe.is_fifo()
        assert names(tmp_path) == ["pipe"]

    def test_writes_through_a_device(self, resumable: bool) -> None:
        with writing(Path("/dev/null"), resumable=resumable) as file:
            file.write(b"content")
        assert Path("/dev/null").is_char_device()

    def test_names_the_device_that_is_full(self, resumable: bool) -> None:
        with (
            pytest.raises(OSError, match="/dev/full") as error,
            writing(Path("/dev/full"), resumable=resumable) as file,
        ):
            file.write(b"content")
        assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "/dev/full")

    @pytest.mark.parametrize("target", ["folder", "none/w", "file/w", "loop", "n" * 300])
    def test_names_the_path_that_cannot_be_written_before_anything_is_downloaded(
        self, tmp_path: Path, resumable: bool, target: str
    ) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(OSError, match=target) as error, writing(tmp_path / target, resumable=resumable):
            pytest.fail("it is not refused")
        assert error.value.filename == str(tmp_path / target)

    def test_a_name_that_leaves_no_room_for_another_suffix_is_written(self, tmp_path: Path, resumable: bool) -> None:
        with writing(tmp_path / ("n" * 255), resumable=resumable) as file:
            file.write(b"content")
        assert names(tmp_path) == ["n" * 255]


class TestResumable:
    def test_goes_on_with_what_is_there(self, tmp_path: Path) -> None:
        target = tmp_path / "w"
        part_of(target).write_bytes(b"first ")
        with writing(target, resumable=True) as file:
            file.seek(0, os.SEEK_END)
            file.write(b"second")
        assert target.read_bytes() == b"first second"

    def test_begins_anew_while_another_process_writes_and_leaves_its_part(self, tmp_path: Path) -> None:
        target = tmp_path / "w"
        interrupt(target, b"half", resumable=True)
        with part_of(target).open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with writing(target, resumable=True) as file:
                assert file.seek(0, os.SEEK_END) == 0
                file.write(b"whole")
        assert target.read_bytes() == b"whole"
        assert part_of(target).read_bytes() == b"half"

    def test_does_not_follow_a_link_that_has_the_name_of_its_part(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(b"precious")
        part_of(tmp_path / "w").symlink_to("precious")
        with writing(tmp_path / "w", resumable=True) as file:
            file.write(b"content")
        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert (tmp_path / "w").read_bytes() == b"content"


def test_a_whole_file_is_written(tmp_path: Path) -> None:
    write_file(tmp_path / "w", b"content")
    assert (tmp_path / "w").read_bytes() == b"content"


def test_an_error_keeps_the_name_that_it_has() -> None:
    with pytest.raises(FileNotFoundError) as error, naming("other"):
        Path("/none/such").read_bytes()
    assert error.value.filename == "/none/such"
