"""Whether CIFAR-10 is in a folder, and undamaged, as JSON: `python -m worker.data.inspection DATA_DIR`.

It runs in a process of its own because the images take 184 MB of memory.
"""

import json
import sys
from pathlib import Path
from typing import TypedDict

from worker.data.datasets import CIFAR10, Archive, DatasetError, load


class DatasetReport(TypedDict):
    """Whether the files exist, where they would be downloaded from, and what is wrong with them, if anything."""

    found: bool
    url: str
    problem: str | None


def dataset_report(data_dir: Path, archive: Archive = CIFAR10) -> DatasetReport:
    """Verify the files of CIFAR-10 in `data_dir`, without downloading any."""
    found = (data_dir / archive.folder).exists() or (data_dir / archive.file_name).exists()
    problem = None
    if found:
        try:
            load("cifar10", data_dir, archive=archive)
        except DatasetError as error:
            problem = str(error)
    return {"found": found, "url": archive.url, "problem": problem}


if __name__ == "__main__":
    print(json.dumps(dataset_report(Path(sys.argv[1]))))
