"""The time for which the API is away after SIGKILL, with a standby process and without.

    python tests/benchmarks/api_restart.py [--rounds 8]

Each round kills the API of a running service in both ways, in turn, and asks for /livez until it answers again.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from service.client import Client, ClientError
from service.local import processes
from service.local.supervisor import Supervisor
from service.settings import Settings

SETTLE_S = 4.0
"""Seconds before a kill, in which the standby process imports its modules."""


def away_s(supervisor: Supervisor) -> float:
    """Kill the API and return the seconds until it answers again."""
    time.sleep(SETTLE_S)
    os.kill(supervisor.pids["api"], signal.SIGKILL)
    killed = time.monotonic()
    with Client(supervisor.url, retry_s=0, timeout_s=1) as client:
        while True:
            try:
                client.ready()
            except ClientError:
                time.sleep(0.01)
            else:
                return time.monotonic() - killed


def main() -> None:
    """Run the rounds and print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    found: dict[bool, list[float]] = {True: [], False: []}
    # A child that has run for a moment has a standby process, and is not one that ends right after its start.
    with (
        tempfile.TemporaryDirectory(prefix="nl") as folder,
        patch.object(processes, "STEADY_S", 0.5),
        Supervisor(Settings(home=Path(folder, "home"), port=0)) as supervisor,
    ):
        supervisor.wait_ready()
        api = supervisor._children["api"]
        for _ in range(arguments.rounds):
            for standby in (True, False):
                api._has_standby = standby
                found[standby].append(away_s(supervisor))
    for standby, seconds in found.items():
        name = "with a standby process" if standby else "without"
        range_ = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name}: median {statistics.median(seconds):.2f} s ({range_}), n = {len(seconds)}")


if __name__ == "__main__":
    main()
