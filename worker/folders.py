"""Folders whose entries survive a power cut.

A new, renamed or removed entry of a folder is on the disk once the folder is synced (fsync(2)). The sync of a file
keeps its content, and not its name.
"""

import os
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o700
"""The mode of a folder that other users of the machine cannot enter."""


def make_folder(path: Path) -> None:
    """Create a folder, and those of its parents that are missing, so that they survive a power cut.

    Other users cannot enter them. A folder that exists keeps its mode.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(PRIVATE, exist_ok=True)
    for folder in missing or [path]:
        # A parent that this user may enter and not read existed before.
        with suppress(PermissionError):
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
