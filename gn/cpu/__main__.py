"""`python -m gn.cpu` compiles everything ahead, so that no process has to wait for it, or do without it."""

import sys
import time

from gn.cpu import builder, extension, kernels, loader


def main() -> int:
    """Builds the kernels of every dtype and the extension; the exit status is 1, after a sentence, where it cannot."""
    began = time.monotonic()
    try:
        for dtype in kernels.CODES:
            loader.build(kernels.ELEMENTS[dtype], last_resort=False)
        extension.build()
    except builder.BuildError as error:
        print(f"gn: cannot be compiled ahead: {error}", file=sys.stderr)
        return 1
    print(f"gn: kernels and extension in {builder.cache_directory()} ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
