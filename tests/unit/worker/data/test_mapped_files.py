"""A dataset is written to a machine once and mapped by every training process."""

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.data import mapped_files
from worker.data.datasets import ImageDataset


@pytest.fixture
def dataset() -> ImageDataset:
    pixels = np.arange(2 * 3 * 32 * 32, dtype=np.uint8).reshape(2, 3, 32, 32)
    return ImageDataset("synthetic", pixels, np.array([1, 2]), pixels[:1], np.array([3]))


def assert_equal(read: ImageDataset, dataset: ImageDataset) -> None:
    assert read.name == dataset.name
    for name in mapped_files.ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(dataset, name), strict=True)


def test_what_is_published_reads_back_mapped_and_read_only(dataset: ImageDataset, tmp_path: Path) -> None:
    read = mapped_files.read(mapped_files.publish(dataset, tmp_path))

    assert_equal(read, dataset)
    assert isinstance(read.train_images, np.memmap)
    assert not read.train_images.flags.writeable


def test_the_same_dataset_is_written_once(dataset: ImageDataset, tmp_path: Path) -> None:
    path = mapped_files.publish(dataset, tmp_path)
    written = (path / "train_images.npy").stat().st_ino

    assert mapped_files.publish(dataclasses.replace(dataset), tmp_path) == path
    assert (path / "train_images.npy").stat().st_ino == written


def test_other_images_are_written_to_another_folder(dataset: ImageDataset, tmp_path: Path) -> None:
    other = dataclasses.replace(dataset, train_images=dataset.train_images + 1)

    assert mapped_files.publish(other, tmp_path) != mapped_files.publish(dataset, tmp_path)


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_files_are_replaced(dataset: ImageDataset, tmp_path: Path, damage: str) -> None:
    path = mapped_files.publish(dataset, tmp_path)
    file = path / "train_images.npy"
    content = file.read_bytes()
    match damage:
        case "changed":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "cut":
            file.write_bytes(content[:-1])
        case "missing":
            file.unlink()

    assert_equal(mapped_files.read(mapped_files.publish(dataset, tmp_path)), dataset)


def test_processes_that_publish_at_once_all_read_a_complete_dataset(dataset: ImageDataset, tmp_path: Path) -> None:
    found: list[ImageDataset] = []
    together = threading.Barrier(8)

    def publish() -> None:
        together.wait()
        found.append(mapped_files.read(mapped_files.publish(dataset, tmp_path)))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    for read in found:
        assert_equal(read, dataset)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing(dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match="No space"):
        mapped_files.publish(dataset, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_folder_belongs_to_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = mapped_files.user_folder()

    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    somebody_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    folder.rename(tmp_path / f"normlab-{somebody_else}")
    with pytest.raises(PermissionError, match="another user"):
        mapped_files.user_folder()
