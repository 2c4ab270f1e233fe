"""What a power cut leaves of a folder: `power_cut.c` records what was synced, and `Recording` restores it.

This is the least that POSIX guarantees. The content of a file is that of its last sync, and a name is in a folder if it
was there when the folder was last synced. A file with a name and without a sync is empty.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gn.cpu.builder import compiler

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-x", "c", "-O1", "-Wall", "-Werror", "-shared", "-fPIC")


@dataclass(frozen=True)
class Synced:
    """One sync. `end` is where its record ends in the log."""

    key: str
    folder: bool
    content: bytes
    end: int


class Recording:
    """The syncs below an empty folder `root` by processes that run with `environment`.

    Args:
        root: The folder. It is empty, and its name is on the disk.
        scratch: A folder for the log and the compiled library.

    Raises:
        BuildError: There is no compiler.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root, self.log, library = root, scratch / "power_cut.log", scratch / "power_cut.so"
        subprocess.run([*compiler(), *FLAGS, str(SOURCE), "-o", str(library)], check=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "POWER_CUT_LOG": str(self.log),
            "POWER_CUT_ROOT": str(root.resolve()),
        }

    def read(self) -> Sequence[Synced]:
        """The syncs until now, oldest first."""
        log, found, at = self.log.read_bytes(), [], 0
        while at < len(log):
            begin = log.index(b"\n", at) + 1
            kind, key, size = log[at:begin].split()
            at = begin + int(size)
            found.append(Synced(key.decode(), kind == b"D", log[begin:at], at))
        return found

    def restore(self, synced: Sequence[Synced], target: Path) -> None:
        """Write to `target` what a power cut after these syncs leaves of the root."""
        folders = {one.key: one.content for one in synced if one.folder}
        files = {one.key: one.content for one in synced if not one.folder}
        target.mkdir()
        _restore(_key_of(self.root, folders), target, folders, files)


def _restore(key: str, target: Path, folders: Mapping[str, bytes], files: Mapping[str, bytes]) -> None:
    for entry in folders.get(key, b"").splitlines():
        key, _, name = os.fsdecode(entry).partition(" ")
        if name.endswith("/"):
            (target / name).mkdir()
            _restore(key, target / name, folders, files)
        else:
            (target / name).write_bytes(files.get(key, b""))


def _key_of(root: Path, folders: Mapping[str, bytes]) -> str:
    """The key of the root, which was synced when its first entry was made."""
    inode = root.stat().st_ino
    return next((key for key in folders if key.startswith(f"{inode}-")), "")
