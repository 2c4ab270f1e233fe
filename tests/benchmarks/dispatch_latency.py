"""The time from the POST to the end of the first optimizer step: normlab, cold and warm, a Ray Job, and Ray Train.

    python tests/benchmarks/dispatch_latency.py [--rounds 30] [--peers 30] [--cold 10] [--json FILE]

Each round submits one job to each of them on the same machine: resnet20 with GroupNorm at batch 8. The process that
trains reads the clock at the end of the first step; the table also has how long a warm start took until the job was
assigned to a worker. `ray[default]` and `ray[train]`, which only the peers need, are installed into a separate folder.
Cold means that no training worker is alive.
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
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.client import Client
from service.local.private_ray import free_port
from service.local.supervisor import Supervisor
from service.settings import Settings

JOB = {
    "model": "resnet20",
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 8,
    "epochs": 1,
    # Each of the ten steps reports metrics, so the database has the end of the first step by the worker's clock.
    "dataset": {"name": "synthetic", "train_limit": 80, "test_limit": 10},
    "checkpoint": {"every_epochs": 1},
}

STEP = """
import time
import torch
from torch.nn import functional as F
from worker.models import build_model
from worker.normalizations.group import GroupNormalization

def first_step():
    model = build_model("resnet20", GroupNormalization(num_groups=8), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.randint(10, (8,)))
    loss.backward()
    optimizer.step()
    return time.time()
"""
RAY_JOB = STEP + "\nprint('ended', first_step(), flush=True)\n"
RAY_TRAIN = (
    STEP
    + """
import sys
from pathlib import Path
import ray, ray.train, ray.train.torch
ray.init(address=sys.argv[1], log_to_driver=False)
for line in sys.stdin:
    target = Path(line.strip())
    def loop(config):
        Path(config["target"]).write_text(repr(first_step()))
        ray.train.report({})
    started = time.time()
    ray.train.torch.TorchTrainer(
        loop,
        train_loop_config={"target": str(target)},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(storage_path=str(target.parent)),
    ).fit()
    print("latency", float(target.read_text()) - started, flush=True)
"""
)


class Normlab:
    """Submits jobs to the service, and remembers how long each waited for the dispatcher."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._claimed = 0.0

    def first_step(self) -> float:
        """Return the seconds from the POST to the end of the first step."""
        started = time.time()
        job = self._client.submit(JOB)["id"]
        attempt = self._client.wait(job)["attempts"][0]
        self._claimed = seconds(attempt["started_at"]) - started
        first = next(row for row in self._client.metrics(job, kind="train") if row["step"] == 1)
        return seconds(first["time"]) - started

    def claimed(self) -> float:
        """Return the seconds from the POST of the last job until the dispatcher assigned it to a worker."""
        return self._claimed


def seconds(time: str) -> float:
    """Return a time of the API in seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


class Peers:
    """A Ray cluster with everything that Ray Jobs and Ray Train need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        packages = folder / "packages"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages)]
        wanted = f"ray[default,train]=={version('ray')}"
        subprocess.run([*install, wanted, f"torch=={version('torch').split('+')[0]}"], check=True)
        root = str(Path(__file__).parents[2])
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(packages), root]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "b" * 40,
            "RAY_TRAIN_ENABLE_V2": "1",
        }
        self._port, self._dashboard = free_port(), free_port()
        start = ["start", "--head", f"--port={self._port}", f"--dashboard-port={self._dashboard}", "--num-cpus=2"]
        start += [f"--temp-dir={folder / 'ray'}", "--disable-usage-stats", "--include-dashboard=true"]
        start += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
        start += ["--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}"]
        start += ["--object-store-memory=500000000"]
        self._run("-m", "ray.scripts.scripts", *start)
        (folder / "job.py").write_text(RAY_JOB)
        (folder / "train.py").write_text(RAY_TRAIN)
        self._trainer = subprocess.Popen(
            [sys.executable, str(folder / "train.py"), f"127.0.0.1:{self._port}"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._rounds = 0

    def ray_job(self) -> float:
        """Return the seconds from the submission of a Ray Job to the end of its first step."""
        program = (
            "import sys, time\n"
            "from ray.job_submission import JobSubmissionClient\n"
            f"client = JobSubmissionClient('http://127.0.0.1:{self._dashboard}')\n"
            "started = time.time()\n"
            f"job = client.submit_job(entrypoint='{sys.executable} {self._folder / 'job.py'}')\n"
            "while not client.get_job_status(job).is_terminal(): time.sleep(0.05)\n"
            "logs = client.get_job_logs(job)\n"
            "ended = [line for line in logs.splitlines() if line.startswith('ended')]\n"
            "assert ended, logs\n"
            "print(float(ended[0].split()[1]) - started)\n"
        )
        return float(self._run("-c", program).splitlines()[-1])

    def ray_train(self) -> float:
        """Return the seconds from `fit()` of Ray Train, in a connected driver, to the end of the first step."""
        assert self._trainer.stdin is not None
        assert self._trainer.stdout is not None
        self._rounds += 1
        target = self._folder / f"train-{self._rounds}" / "ended"
        target.parent.mkdir()
        print(target, file=self._trainer.stdin, flush=True)
        for line in self._trainer.stdout:
            if line.startswith("latency"):
                return float(line.split()[1])
        raise RuntimeError("the Ray Train driver ended")

    def stop(self) -> None:
        """End the cluster."""
        self._trainer.kill()
        subprocess.run(["pkill", "-f", str(self._folder / "ray")], check=False)

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=self._environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def quantile(seconds: list[float], share: float) -> float:
    """Return a quantile: the smallest measurement for which at least `share` of all are no larger."""
    return sorted(seconds)[max(0, -(-int(share * 100) * len(seconds) // 100) - 1)]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--peers", type=int, default=30, help="number of rounds that include the peers; 0 skips them")
    parser.add_argument("--cold", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    latencies: dict[str, list[float]] = {}

    def take(name: str, measure: Callable[[], float]) -> None:
        latencies.setdefault(name, []).append(measure())
        print(f"{name}: {latencies[name][-1]:.3f} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="nl") as folder:
        peers = Peers(Path(folder)) if arguments.peers else None
        try:
            warm = Settings(home=Path(folder, "warm"), port=0)
            with Supervisor(warm) as supervisor, Client(supervisor.url) as client:
                supervisor.wait_ready()
                normlab = Normlab(client)
                for _ in range(2):
                    normlab.first_step()
                for number in range(arguments.rounds):
                    take("normlab, warm", normlab.first_step)
                    take("of it, waiting", normlab.claimed)
                    if peers and number < arguments.peers:
                        take("Ray Job", peers.ray_job)
                        take("Ray Train", peers.ray_train)
        finally:
            if peers:
                peers.stop()
        cold = Settings(home=Path(folder, "cold"), port=0, warm_workers=0, worker_idle_s=0.01)
        with Supervisor(cold) as supervisor, Client(supervisor.url) as client:
            supervisor.wait_ready()
            normlab = Normlab(client)
            for _ in range(arguments.cold):
                wait_until_cold(client)
                take("normlab, cold", normlab.first_step)

    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, ray {version('ray')}, torch {version('torch')}")
    for name, seconds in latencies.items():
        p50, p95 = statistics.median(seconds), quantile(seconds, 0.95)
        print(f"{name:14}  n {len(seconds):3}  p50 {p50:7.3f} s  p95 {p95:7.3f} s")
    if arguments.json:
        document: dict[str, Any] = {"cores": cores, "ray": version("ray"), "torch": version("torch"), "s": latencies}
        arguments.json.write_text(json.dumps(document))


def wait_until_cold(client: Client) -> None:
    """Wait until no training worker is left."""
    while client.cluster()["workers"]:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
