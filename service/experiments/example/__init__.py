"""The example: a finished study on images of CIFAR-10, which comes with the package as a compressed bundle."""

import lzma
import shutil
from importlib.resources import files
from pathlib import Path

ARCHIVE = "study.tar.xz"


def unpack_example(target: Path) -> None:
    """Write the bundle of the example to the file `target`."""
    with files(__name__).joinpath(ARCHIVE).open("rb") as packed, lzma.open(packed) as bundle, target.open("wb") as file:
        shutil.copyfileobj(bundle, file)
