"""Print how the service survives faults and load, as the tables of service/README.md.

    python -m tests.reliability [kills] [submissions] [streams] [soak] [crashes] [--short]

Each part starts a service of its own in a temporary folder, and exits with an error if a promise is broken: a job is
lost or runs twice, a row is missing or double, weights differ from those of an undisturbed run. Run it on an idle
machine: times are measured. `--short` takes a few cases of each part.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from tests.reliability import crash_points, kills, soak, streams, submissions
from tests.reliability.report import Broken

PARTS = {
    "kills": kills.run,
    "submissions": submissions.run,
    "streams": streams.run,
    "soak": soak.run,
    "crashes": crash_points.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--short", action="store_true", help="a few cases of each part")
    chosen = parser.parse_args()

    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "ray", "fastapi", "sqlalchemy"))
    print(f"{_processor()}, Python {platform.python_version()}, {libraries}\n")
    broken = False
    for name in chosen.parts or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="normlab-reliability-") as folder:
            try:
                for table in PARTS[name](Path(folder), short=chosen.short):
                    print(table, flush=True)
            except Broken as error:
                print(f"BROKEN ({name}): {error}")
                broken = True
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
    return int(broken)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
