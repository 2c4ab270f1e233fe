"""The datasets: CIFAR-10, and a synthetic dataset for trials without a download.

Imports numpy but not torch, so that a process without torch can load a dataset once for all workers. Source of
CIFAR-10: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

import hashlib
import io
import math
import os
import pickle
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE, NUM_CLASSES
from worker.spec import DATASET_SIZES, DatasetName

IMAGE_SHAPE = (IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)


class DatasetError(ValueError):
    """A dataset is missing, damaged or not available; the message names the file and a remedy."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """All images of a dataset, uint8 (N, 3, 32, 32), and their labels, int64 (N,); the arrays are C-contiguous.

    Nothing writes to the arrays; they may be read-only views of shared memory.
    """

    name: DatasetName
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Archive:
    """URL of a published archive, and the md5 of the archive and of each file in its folder."""

    url: str
    md5: str
    folder: str
    train_files: Mapping[str, str]
    test_files: Mapping[str, str]

    @property
    def file_name(self) -> str:
        """File name of the archive; torchvision keeps it under this name beside the extracted folder."""
        return self.url.rsplit("/", 1)[-1]


CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train_files={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test_files={"test_batch": "40351d587109b95175f43aff81a1287e"},
)
"""The "python version", with the md5 sums given by its publisher and by torchvision."""


def load(
    name: DatasetName, data_dir: Path, progress: Callable[[str], None] = lambda _: None, *, archive: Archive = CIFAR10
) -> ImageDataset:
    """Load a dataset into memory (CIFAR-10: 184 MB).

    CIFAR-10 is read from `data_dir/cifar-10-batches-py`, the folder that torchvision uses too. If the folder is
    missing, it is unpacked from the archive beside it; if that is missing too, the archive is downloaded. Every file is
    checked against its published md5.

    Args:
        name: The dataset.
        data_dir: Folder of the data; created if it is missing.
        progress: Called with a line of text at each stage of the download.
        archive: The archive to look for.

    Raises:
        DatasetError: If a file is missing, damaged, or cannot be downloaded.
    """
    if name == "synthetic":
        return synthetic()
    folder = data_dir / archive.folder
    if not folder.is_dir():
        try:
            _fetch(archive, data_dir, progress)
        except OSError as error:
            raise DatasetError(
                f"{archive.folder} could not be put into {data_dir} ({error}): free disk space, check the "
                "permissions, or choose another data directory"
            ) from error
    train_images, train_labels = _read_batches(folder, archive.train_files)
    test_images, test_labels = _read_batches(folder, archive.test_files)
    return ImageDataset(name, train_images, train_labels, test_images, test_labels)


def synthetic() -> ImageDataset:
    """Make the synthetic dataset: ten classes of coloured patterns with distractors, tint and noise.

    A pattern has 4×4 squares, is symmetric (a mirrored image keeps its class), is shifted by up to 4 pixels, and is
    overlaid with a fainter pattern of another class, a random tint and noise. The images are identical on every
    machine: the random numbers are the raw stream of Philox and the arithmetic is in integers.
    """
    num_train, num_test = DATASET_SIZES["synthetic"]
    labels = np.arange(num_train + num_test, dtype=np.int64) % NUM_CLASSES
    images = _patterns(labels)
    return ImageDataset(
        "synthetic", images[:num_train], labels[:num_train].copy(), images[num_train:], labels[num_train:].copy()
    )


def _patterns(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return one image for each label, uint8 (N, 3, 32, 32)."""
    count = len(labels)
    stream = np.random.Philox(key=0x6E6F726D6C6162)

    def random(low: int, high: int, *shape: int) -> NDArray[np.int16]:
        """Integers in [low, high), a range of at most 256, almost uniformly distributed."""
        size = math.prod(shape)
        values = stream.random_raw(-(-size // 8)).astype("<u8").view(np.uint8)[:size].reshape(shape)
        return (values * np.uint16(high - low) >> 8).astype(np.int16) + np.int16(low)

    half = random(0, 2, NUM_CLASSES, IMAGE_CHANNELS, 4, 2) * 2 - 1
    squares = np.concatenate([half, half[..., ::-1]], axis=-1).repeat(8, axis=-2).repeat(8, axis=-1)
    shifted = np.stack([np.roll(squares, (2 * y - 3, 2 * x), (-2, -1)) for y in range(4) for x in range(-2, 3)], axis=1)
    shift = random(0, shifted.shape[1], 2, count)
    other = (labels + random(1, NUM_CLASSES, count)) % NUM_CLASSES

    pixels = random(-60, 60, count, *IMAGE_SHAPE)
    pixels += random(108, 148, count, IMAGE_CHANNELS, 1, 1)
    pixels += shifted[labels, shift[0]] * random(28, 72, count, 1, 1, 1)
    pixels += shifted[other, shift[1]] * random(0, 32, count, 1, 1, 1)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def class_balanced(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of all images, ordered so that every prefix is class-balanced.

    The first image of each class comes first (classes in increasing order), then the second of each, and so on.

    Args:
        labels: int64 (N,).

    Returns:
        int64 (N,).
    """
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    return np.lexsort((labels, rank))


@dataclass(frozen=True)
class Split:
    """Which images a job trains and evaluates on.

    Attributes:
        train: int64, increasing indices into the training images.
        holdout: int64, increasing indices into the training images, of those that are evaluated and not trained on.
        test: int64, increasing indices into the test images.
    """

    train: NDArray[np.int64]
    holdout: NDArray[np.int64]
    test: NDArray[np.int64]


def split(
    dataset: ImageDataset, *, train_limit: int | None = None, test_limit: int | None = None, holdout: int = 0
) -> Split:
    """Select the images that a job uses; the selection does not depend on its seed.

    Args:
        dataset: The dataset.
        train_limit: Take this many training images, the first in `class_balanced` order; None: all.
        test_limit: Evaluate on this many test images, the first in `class_balanced` order; None: all.
        holdout: Evaluate on the last `holdout` of the selected training images too, and train on the others.
    """
    selected = class_balanced(dataset.train_labels)[:train_limit]
    train, held_out = np.split(selected, [len(selected) - holdout])
    return Split(np.sort(train), np.sort(held_out), np.sort(class_balanced(dataset.test_labels)[:test_limit]))


def _fetch(archive: Archive, data_dir: Path, progress: Callable[[str], None]) -> None:
    """Put the folder of the archive into `data_dir`. If two processes do so at once, the first to finish wins."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetching-") as scratch:
        packed = data_dir / archive.file_name
        if packed.is_file():
            _check_md5(packed, archive.md5)
        else:
            packed = Path(scratch) / archive.file_name
            _download(archive, packed, data_dir, progress)
        progress(f"unpacking {archive.file_name}")
        try:
            with tarfile.open(packed) as tar:
                tar.extractall(scratch, filter="data")
        except tarfile.TarError as error:
            raise DatasetError(f"{packed} cannot be unpacked ({error}): delete it and try again") from error
        unpacked = Path(scratch) / archive.folder
        for file_name, md5 in (*archive.train_files.items(), *archive.test_files.items()):
            _check_md5(unpacked / file_name, md5)
        try:
            os.replace(unpacked, data_dir / archive.folder)
        except OSError:
            if not (data_dir / archive.folder).is_dir():
                raise


def _download(archive: Archive, target: Path, data_dir: Path, progress: Callable[[str], None]) -> None:
    progress(f"downloading {archive.url} to {data_dir}")
    try:
        with urllib.request.urlopen(archive.url, timeout=60) as response, target.open("wb") as file:
            _copy(response, file, int(response.headers.get("Content-Length") or 0), progress)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DatasetError(
            f"{archive.url} could not be downloaded ({reason}). With a network, try again; without one, put "
            f"{archive.file_name} or the folder {archive.folder} extracted from it into {data_dir}, "
            "or use the dataset 'synthetic'"
        ) from error
    _check_md5(target, archive.md5)


def _copy(response: BinaryIO, file: BinaryIO, size: int, progress: Callable[[str], None]) -> None:
    received, reported = 0, 0
    while block := response.read(1 << 20):
        file.write(block)
        received += len(block)
        if size and (tenth := received * 10 // size) > reported:
            reported = tenth
            progress(f"downloaded {received / 1e6:.0f} of {size / 1e6:.0f} MB")
    if size and received < size:
        raise OSError(f"the connection ended after {received} of {size} bytes")


def _check_md5(path: Path, expected: str) -> bytes:
    """Return the content of `path`; raise `DatasetError` unless its md5 is `expected`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: delete the folder {path.parent} to download it again, or put the file there"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): check its permissions and the disk") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DatasetError(
            f"{path} is damaged: its md5 is {found} and should be {expected}. "
            f"Delete {path if path.suffix else path.parent} to download it again"
        )
    return content


def _read_batches(folder: Path, files: Mapping[str, str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images and labels of the pickled batches `files` (name to md5), concatenated."""
    images, labels = [], []
    for name, md5 in files.items():
        batch = _BatchUnpickler(io.BytesIO(_check_md5(folder / name, md5)), encoding="bytes").load()
        images.append(batch[b"data"].reshape(-1, *IMAGE_SHAPE))
        labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def _dtype(kind: str, align: int, copy: int) -> np.dtype[Any]:
    # These pickles give 0 and 1 for the two flags, which is deprecated in numpy.
    return np.dtype(kind, align=bool(align), copy=bool(copy))


class _BatchUnpickler(pickle.Unpickler):
    """Unpickles batches written by numpy under Python 2; it constructs arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return _dtype
        raise DatasetError(f"a batch file refers to {module}.{name}, which no CIFAR-10 file needs")
