"""CIFAR-10 is read only if every checksum agrees; the synthetic dataset is identical everywhere."""

import hashlib
import http.server
import io
import pickle
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.data import datasets, download
from worker.data.datasets import Archive, DatasetError, ImageDataset, class_balanced, load, split
from worker.data.inspection import dataset_report

FOLDER = "cifar-10-batches-py"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def batch(first_pixel: int, labels: list[int]) -> bytes:
    """A batch file in which all pixels of an image have one value."""
    images = np.full((len(labels), 3072), first_pixel, dtype=np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None]
    return pickle.dumps({b"data": images, b"labels": labels, b"batch_label": b"a batch"}, protocol=3)


@dataclass
class Published:
    """A tiny dataset in the format of CIFAR-10, on a web server."""

    archive: Archive
    packed: bytes
    files: dict[str, bytes]
    requests: list[str]

    def unpack(self, data_dir: Path) -> None:
        (data_dir / FOLDER).mkdir(parents=True)
        for name, content in self.files.items():
            (data_dir / FOLDER / name).write_bytes(content)


@pytest.fixture
def published() -> Iterator[Published]:
    files = {"data_batch_1": batch(0, [3, 1]), "data_batch_2": batch(50, [4]), "test_batch": batch(100, [9, 2, 6])}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed, requests = buffer.getvalue(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed[: -10 if "cut" in self.path else None])

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        sums = {name: md5(content) for name, content in files.items()}
        yield Published(
            Archive(
                url=f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz",
                md5=md5(packed),
                folder=FOLDER,
                train_files={name: sums[name] for name in ("data_batch_1", "data_batch_2")},
                test_files={"test_batch": sums["test_batch"]},
            ),
            packed,
            files,
            requests,
        )
        server.shutdown()
        thread.join()


def check(dataset: ImageDataset) -> None:
    assert dataset.name == "cifar10"
    assert dataset.train_images.shape == (3, 3, 32, 32)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [0, 1, 50]
    assert dataset.train_labels.tolist() == [3, 1, 4]
    assert dataset.test_images[:, 2, 31, 31].tolist() == [100, 101, 102]
    assert dataset.test_labels.tolist() == [9, 2, 6]
    for array in (dataset.train_images, dataset.test_images):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64


def test_an_extracted_folder_is_read_without_a_network(published: Published, tmp_path: Path) -> None:
    published.unpack(tmp_path)

    check(load("cifar10", tmp_path, archive=published.archive))
    assert not published.requests


def test_an_archive_beside_it_is_unpacked_without_a_network(published: Published, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(published.packed)

    check(load("cifar10", tmp_path, archive=published.archive))
    assert not published.requests
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER, "cifar-10-python.tar.gz"]


def test_a_missing_dataset_is_downloaded_once_without_leftovers(published: Published, tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    told: list[str] = []

    check(load("cifar10", data_dir, told.append, archive=published.archive))
    check(load("cifar10", data_dir, told.append, archive=published.archive))

    assert len(published.requests) == 1
    assert [path.name for path in data_dir.iterdir()] == [FOLDER]
    assert published.archive.url in told[0]
    assert any("downloaded" in line and "MB" in line for line in told)


def test_two_processes_can_download_at_once(published: Published, tmp_path: Path) -> None:
    both_started = threading.Barrier(2)

    def fetch(_: int) -> ImageDataset:
        def wait(line: str) -> None:
            if line.startswith("unpacking"):
                both_started.wait(timeout=120)

        return load("cifar10", tmp_path, wait, archive=published.archive)

    with ThreadPoolExecutor(2) as pool:
        for dataset in pool.map(fetch, range(2)):
            check(dataset)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def damage(published: Published, data_dir: Path) -> Archive:
    published.unpack(data_dir)
    path = data_dir / FOLDER / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1])
    return published.archive


def remove(published: Published, data_dir: Path) -> Archive:
    published.unpack(data_dir)
    (data_dir / FOLDER / "test_batch").unlink()
    return published.archive


def damage_the_archive(published: Published, data_dir: Path) -> Archive:
    (data_dir / "cifar-10-python.tar.gz").write_bytes(b"not it")
    return published.archive


def serve_something_else(published: Published, data_dir: Path) -> Archive:
    return replace(published.archive, md5="0" * 32)


def cut_the_connection(published: Published, data_dir: Path) -> Archive:
    return replace(published.archive, url=published.archive.url.replace("/cifar", "/cut/cifar"))


def be_offline(published: Published, data_dir: Path) -> Archive:
    return replace(published.archive, url="http://127.0.0.1:1/cifar-10-python.tar.gz")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage, ["data_batch_2", "is damaged", "md5", "Delete"]),
        (remove, ["test_batch", "is missing", "delete the folder"]),
        (damage_the_archive, ["cifar-10-python.tar.gz", "is damaged", md5(b"not it"), "Delete"]),
        (serve_something_else, ["cifar-10-python.tar.gz", "is damaged", "0" * 32]),
        (cut_the_connection, ["could not be downloaded", "synthetic"]),
        (be_offline, ["could not be downloaded", "Connection refused", "without one, put", FOLDER, "synthetic"]),
    ],
)
def test_an_error_names_the_file_and_a_remedy(
    published: Published, tmp_path: Path, break_it: Callable[[Published, Path], Archive], says: list[str]
) -> None:
    archive = break_it(published, tmp_path)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(DatasetError) as raised:
        load("cifar10", tmp_path, archive=archive)

    for part in (*says, str(tmp_path)):
        assert part in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_directory_that_cannot_be_created_is_reported(published: Published, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DatasetError, match=r"could not be put into .*/file/data .*another data directory"):
        load("cifar10", tmp_path / "file" / "data", archive=published.archive)


def test_a_damaged_file_is_named_with_both_sums(published: Published, tmp_path: Path) -> None:
    archive = damage(published, tmp_path)

    with pytest.raises(DatasetError) as raised:
        load("cifar10", tmp_path, archive=archive)

    assert md5(published.files["data_batch_2"][:-1]) in str(raised.value)
    assert archive.train_files["data_batch_2"] in str(raised.value)


def test_a_batch_file_can_construct_arrays_only(published: Published, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    published.files["data_batch_1"] = content = pickle.dumps({b"data": Harmful(), b"labels": []}, protocol=3)
    published.unpack(tmp_path)
    sums = {**published.archive.train_files, "data_batch_1": md5(content)}

    with pytest.raises(DatasetError, match="no CIFAR-10 file needs"):
        load("cifar10", tmp_path, archive=replace(published.archive, train_files=sums))
    assert not (tmp_path / "touched").exists()


def test_an_archive_cannot_write_outside_its_folder(published: Published, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "cifar-10-python.tar.gz").write_bytes(buffer.getvalue())

    with pytest.raises(DatasetError, match="cannot be unpacked"):
        load("cifar10", data_dir, archive=replace(published.archive, md5=md5(buffer.getvalue())))
    assert not list(tmp_path.rglob("escaped"))


def test_the_published_sums_are_those_of_cifar10() -> None:
    assert datasets.CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert datasets.CIFAR10.md5 == "c58f30108f718f92721af3b95e74349a"
    assert len({*datasets.CIFAR10.train_files.values(), *datasets.CIFAR10.test_files.values()}) == 6


@pytest.mark.cifar10
def test_the_genuine_cifar10_has_six_thousand_images_of_each_class(cifar10: ImageDataset) -> None:
    assert cifar10.train_images.shape == (50_000, 3, 32, 32)
    assert cifar10.test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


def test_the_synthetic_dataset_is_identical_everywhere_and_is_labelled(synthetic: ImageDataset) -> None:
    content = b"".join(vars(synthetic)[name].astype("<i8").tobytes() for name in ("train_labels", "test_labels"))
    images = synthetic.train_images.tobytes() + synthetic.test_images.tobytes()

    assert synthetic.name == "synthetic"
    assert synthetic.train_images.shape == (10_000, 3, 32, 32)
    assert synthetic.test_images.shape == (2_000, 3, 32, 32)
    assert np.bincount(synthetic.train_labels).tolist() == [1000] * 10
    assert (md5(images), md5(content)) == ("206cf91580e62e8b8252e0eb5789ec7c", "0247526ebb6886bc7bc055697a1cb0e7")


def test_loading_needs_no_torch() -> None:
    code = "import sys, worker.data.datasets; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(datasets.__file__).parents[2]).returncode == 0


def test_every_prefix_of_the_class_balanced_order_is_balanced() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(100) % 10)
    order = class_balanced(labels)

    assert sorted(order) == list(range(100))
    for count in (1, 9, 10, 37, 100):
        each = np.bincount(labels[order[:count]], minlength=10)
        assert each.max() - each.min() <= 1
    for label in range(10):
        of_class = order[labels[order] == label]
        assert of_class.tolist() == sorted(of_class)


def test_a_split_keeps_its_images_as_the_limits_grow_and_the_holdout_apart(synthetic: ImageDataset) -> None:
    small, large = split(synthetic, train_limit=100), split(synthetic, train_limit=1000, test_limit=50)
    held = split(synthetic, train_limit=100, holdout=30)

    assert set(small.train) < set(large.train)
    assert len(split(synthetic).train) == 10_000
    assert len(split(synthetic).test) == 2_000
    assert np.bincount(synthetic.test_labels[large.test]).tolist() == [5] * 10
    assert set(held.train) | set(held.holdout) == set(small.train)
    assert not set(held.train) & set(held.holdout)
    assert np.bincount(synthetic.train_labels[held.holdout]).tolist() == [3] * 10
    assert len(small.holdout) == 0
    np.testing.assert_array_equal(held.test, small.test)
    assert len(split(synthetic, holdout=30, test_limit=0).test) == 0


class TestInspection:
    def test_missing_files_are_no_problem(self, published: Published, tmp_path: Path) -> None:
        report = dataset_report(tmp_path, published.archive)
        assert report == {"found": False, "url": published.archive.url, "problem": None}
        assert published.requests == []

    def test_intact_files_are_found(self, published: Published, tmp_path: Path) -> None:
        published.unpack(tmp_path)
        report = dataset_report(tmp_path, published.archive)
        assert (report["found"], report["problem"]) == (True, None)

    def test_a_damaged_file_is_named(self, published: Published, tmp_path: Path) -> None:
        published.unpack(tmp_path)
        (tmp_path / FOLDER / "test_batch").write_bytes(b"")
        assert "test_batch is damaged" in str(dataset_report(tmp_path, published.archive)["problem"])


def test_the_download_command_says_why_there_are_no_images(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(SystemExit, match="data_batch_1 is missing"):
        download.main([str(tmp_path)])
