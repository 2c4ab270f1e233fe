"""Download CIFAR-10 unless it is there: `python -m worker.data.download DATA_DIR`.

Progress goes to standard output, and the reason for a failure to standard error.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from worker.data.datasets import DatasetError, load


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises `SystemExit` with the reason if CIFAR-10 cannot be loaded."""
    (data_dir,) = sys.argv[1:] if arguments is None else arguments
    try:
        load("cifar10", Path(data_dir), lambda line: print(line, flush=True))
    except DatasetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
