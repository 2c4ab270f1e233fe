"""Folders are created for their user only, and their names are synced."""

import os
import stat
from pathlib import Path

import pytest

from worker.folders import PRIVATE, make_folder


def test_every_folder_that_is_made_is_private_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    before = os.umask(0o022)
    make_folder(tmp_path / "a/b")
    os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [PRIVATE, PRIVATE]
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "a")]


def test_one_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")
