"""The CPU time that an idle `normlab up` uses, by process.

    python tests/benchmarks/idle_cpu.py [--seconds 60] [--rounds 3] [--json FILE]

One training worker is warm and no job waits. Each round reads the CPU times of all processes before and after it. Ray's
own processes, which include the training worker, are counted separately. With `--threads` the threads of the dispatcher
are listed, by which Ray's driver, which runs in its process, is told apart from Python.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from service.client import Client
from service.local.home import read_state


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def groups(home: Path) -> dict[str, list[psutil.Process]]:
    """Return the processes of the service by what they belong to."""
    state = read_state(home)
    assert state is not None, "normlab up does not run"
    found = {"supervisor": [psutil.Process(state.supervisor.pid)]}
    for name, child in state.children.items():
        process = psutil.Process(child.pid)
        found[name] = [process, *process.children(recursive=True)]
    return found


def threads(process: psutil.Process) -> dict[str, float]:
    """Return the CPU seconds of the threads of a process, by thread id and name."""
    found = {}
    for thread in process.threads():
        name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
        found[f"{thread.id} {name}"] = thread.user_time + thread.system_time
    return found


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", action="store_true", help="list the threads of the dispatcher")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="nl") as folder:
        home = Path(folder, "home")
        up = subprocess.Popen([sys.executable, "-m", "service.cli", "up", "--port", "0", "--home", str(home)])
        try:
            with Client(wait_for_url(home), retry_s=120) as client:
                while [worker["state"] for worker in client.cluster()["workers"]] != ["idle"]:
                    time.sleep(0.5)
            for _ in range(arguments.rounds):
                found = groups(home)
                before = {name: [cpu_s(process) for process in processes] for name, processes in found.items()}
                by_thread = threads(found["dispatcher"][0])
                began = time.monotonic()
                time.sleep(arguments.seconds)
                took = time.monotonic() - began
                for name, processes in found.items():
                    used = sum(map(cpu_s, processes)) - sum(before[name])
                    shares.setdefault(name, []).append(100 * used / took)
                if arguments.threads:
                    for name, seconds in threads(found["dispatcher"][0]).items():
                        if share := 100 * (seconds - by_thread.get(name, 0)) / took:
                            print(f"  dispatcher, thread {name}: {share:.2f} %")
        finally:
            up.terminate()
            up.wait()
    own = [name for name in shares if name != "ray"]
    shares["service"] = [sum(values) for values in zip(*(shares[name] for name in own), strict=True)]
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, ray {version('ray')}; % of one core, {arguments.seconds:g} s a round")
    for name, values in shares.items():
        print(f"{name:12}  n {len(values)}  median {statistics.median(values):5.2f}  worst {max(values):5.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cores": cores, "seconds": arguments.seconds, "percent": shares}))


def wait_for_url(home: Path) -> str:
    """Return the address of the service, once it has been chosen."""
    while (state := read_state(home)) is None:
        time.sleep(0.1)
    return state.url


if __name__ == "__main__":
    main()
