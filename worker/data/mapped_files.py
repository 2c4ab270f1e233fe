"""Datasets as memory-mapped files, so that all training processes of a machine share one copy in memory."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import cast

import numpy as np

from worker.data.datasets import ImageDataset
from worker.spec import DatasetName

ARRAYS = tuple(field.name for field in fields(ImageDataset) if field.name != "name")


def user_folder() -> Path:
    """Return this user's folder for mapped files, within the temporary folder; create it if it is missing.

    Raises:
        OSError: If it cannot be created, or belongs to another user.
    """
    folder = Path(tempfile.gettempdir(), f"normlab-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def publish(dataset: ImageDataset, folder: Path) -> Path:
    """Write `dataset` to a folder named after its SHA-256, unless another process already has; return its path.

    Files that are damaged are replaced.

    Args:
        dataset: The dataset.
        folder: The parent folder.

    Raises:
        OSError: If the files cannot be written.
    """
    digest = _digest(dataset)
    path = folder / f"{dataset.name}-{digest[:16]}"
    if path.exists():
        try:
            if _digest(read(path)) == digest:
                return path
        except (OSError, ValueError):
            pass
        shutil.rmtree(path, ignore_errors=True)
    written = Path(tempfile.mkdtemp(dir=folder, prefix=f"{dataset.name}-"))
    try:
        for name in ARRAYS:
            np.save(written / f"{name}.npy", getattr(dataset, name))
        written.rename(path)
    except OSError:
        shutil.rmtree(written, ignore_errors=True)
        # Another process may have written the same dataset meanwhile.
        if not path.exists():
            raise
    return path


def read(path: Path) -> ImageDataset:
    """Map the files that `publish` wrote to `path`; the arrays are read-only.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not an array.
    """
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return ImageDataset(cast(DatasetName, path.name.rpartition("-")[0]), **arrays)


def _digest(dataset: ImageDataset) -> str:
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(getattr(dataset, name)).data)
    return digest.hexdigest()
