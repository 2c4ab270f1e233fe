"""`python -m gn.cpu` compiles the kernels and the extension ahead of time, so that no process waits for them."""

import sys
import time

from gn.cpu import builder, extension, kernels, loader


def main() -> int:
    """Compile the kernels of every dtype and the extension; return the exit status, 1 after a failure."""
    began = time.monotonic()
    try:
        for normalization in loader.NORMALIZATIONS:
            for element in kernels.ELEMENTS.values():
                loader.build(normalization, element, fallback=False)
        extension.build()
    except builder.BuildError as error:
        print(f"gn: cannot be compiled ahead: {error}", file=sys.stderr)
        return 1
    print(f"gn: kernels and extension in {builder.cache_directory()} ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
