"""A dataset as files that every process of a machine maps: many trainings, one copy in memory."""

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


def folder_of_user() -> Path:
    """The folder for them in the machine's temporary one: this user's own. Raises `OSError` where it is another's."""
    folder = Path(tempfile.gettempdir(), f"normlab-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def publish(dataset: ImageDataset, folder: Path) -> Path:
    """Put `dataset` under `folder`, once, whoever asks: it is named by its SHA-256, and damaged files are replaced.

    Raises `OSError`.
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
        # Another process may have put the same there meanwhile.
        if not path.exists():
            raise
    return path


def read(path: Path) -> ImageDataset:
    """What `publish` put at `path`, mapped and read-only. Raises `OSError` or `ValueError`."""
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return ImageDataset(cast(DatasetName, path.name.rpartition("-")[0]), **arrays)


def _digest(dataset: ImageDataset) -> str:
    digest = hashlib.sha256()
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(getattr(dataset, name)).data)
    return digest.hexdigest()
