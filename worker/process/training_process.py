"""The training process, as the actor sees it: it trains one attempt after another and keeps torch loaded in between.

Training runs in a process of its own for two reasons: within the Ray actor, beside Ray's threads, it was measured to be
3 % slower; and when the process is killed (out of memory, a crash in native code), the actor remains and can report it.

`TrainingProcess` starts `python -m worker.process FD` and exchanges `worker.process.messages` with it over a pipe.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from worker.process.messages import (
    Compare,
    Compared,
    Configure,
    Ending,
    Evaluate,
    EvaluationEnded,
    LeaseRenewed,
    Listening,
    Ping,
    Pong,
    Ready,
    RenewLease,
    Reported,
    Start,
    Stop,
)
from worker.stopped import STOPPED_S, StopWatch

MALLOC_ENVIRONMENT = {
    # By default glibc returns large blocks to the system and gets them back, zeroed page by page, at the next step. In
    # one heap, a step reuses the memory of the previous step. One arena, as the heap of each further one takes 64 MiB.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Environment variables that a process which trains on a CPU needs from its start."""

END_TIMEOUT_S = 5.0
SILENCE_S = 10.0
"""A process that does not answer for this time while its lease is renewed, or for a lease, is given up."""
RENEWAL_S = 3.0
"""The lease is renewed more often than this. A longer pause was one of this process, and counts as this time."""


class TrainingProcessGone(RuntimeError):
    """The training process has ended or does not respond."""


class TrainingProcess:
    """Starts the training process, sends it attempts, and passes on what they report.

    Args:
        configuration: The first message to the process.
        on_report: Called with every report, in a thread of its own.
        on_end: Called once, in the same thread, when the process has ended.

    Attributes:
        device: The device that the process trains on; empty before it is ready.
        bfloat16: Whether that device computes in bfloat16.
        aborted: Whether the process was ended by SIGABRT.
    """

    def __init__(
        self, configuration: Configure, on_report: Callable[[Reported | Listening], None], on_end: Callable[[], None]
    ) -> None:
        self.device, self.bfloat16 = "", False
        self._silence_s = min(configuration.lease_s, SILENCE_S)
        self._on_report, self._on_end = on_report, on_end
        self._ready = threading.Event()
        self._ended: str | None = None
        self.aborted = False
        self._send_lock = threading.Lock()
        self._asking_lock = threading.Lock()
        self._answers: queue.SimpleQueue[Compared | EvaluationEnded | None] = queue.SimpleQueue()
        self._renewing, self._unanswered_s, self._renewed_at = False, 0.0, 0.0
        self._ping_lock = threading.Lock()
        self._pong = threading.Event()
        parent, child = socket.socketpair()
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.process", str(child.fileno())],
                pass_fds=[child.fileno()],
                env=_environment(configuration),
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._stop_watch = StopWatch(self.pid)
        self._connection = Connection(parent.detach())
        # If the process has already ended, the receiving thread notices and says why.
        with suppress(TrainingProcessGone):
            self._send(configuration)
        threading.Thread(target=self._receive, name="training process", daemon=True).start()

    @property
    def gone(self) -> bool:
        """Whether the process has ended."""
        return self._ended is not None

    @property
    def ready(self) -> bool:
        """Whether the process is warmed up."""
        return self._ready.is_set()

    def wait_ready(self) -> None:
        """Wait until the process is warmed up.

        Raises:
            TrainingProcessGone: If it has ended.
        """
        self._ready.wait()
        self.check()

    def check(self) -> None:
        """Check that the process is alive.

        Raises:
            TrainingProcessGone: If it has ended, was stopped by a signal, or has not answered renewals of its lease.
        """
        if self._ended is not None:
            raise TrainingProcessGone(self._ended)
        if self._stop_watch.is_given_up():
            raise TrainingProcessGone(f"the training process was stopped by a signal for {STOPPED_S:g} s")
        if self._renewing and self._unanswered_s > self._silence_s:
            raise TrainingProcessGone(f"the training process has not answered for {self._silence_s:g} s")

    def compare(self, compare: Compare) -> Compared:
        """Measure a training step in each precision. No attempt may train.

        Raises:
            TrainingProcessGone: If the process has ended.
        """
        compared = self._ask(compare)
        assert isinstance(compared, Compared)
        return compared

    def evaluate(self, evaluate: Evaluate) -> EvaluationEnded:
        """Evaluate a checkpoint. No attempt may train.

        Raises:
            TrainingProcessGone: If the process has ended.
        """
        ended = self._ask(evaluate)
        assert isinstance(ended, EvaluationEnded)
        return ended

    def _ask(self, question: Compare | Evaluate) -> Compared | EvaluationEnded:
        with self._asking_lock:
            self._send(question)
            answer = self._answers.get()
        if answer is None:
            raise TrainingProcessGone(self._ended)
        return answer

    def start(self, start: Start) -> None:
        """Train an attempt.

        Raises:
            TrainingProcessGone: If the process has ended.
        """
        self._send(start)

    def stop(self, stop: Stop) -> None:
        """Pause or cancel an attempt.

        Raises:
            TrainingProcessGone: If the process has ended.
        """
        self._send(stop)

    def renew_lease(self) -> None:
        """Renew the lease of the training.

        Raises:
            TrainingProcessGone: As `check` does.
        """
        now = time.monotonic()
        if self._renewing:
            self._unanswered_s += min(now - self._renewed_at, RENEWAL_S)
        self.check()
        self._renewed_at = now
        if not self._renewing:
            self._renewing, self._unanswered_s = True, 0.0
            self._send(RenewLease())

    def ping(self, wait_s: int) -> None:
        """Wait until the process answers.

        Raises:
            TrainingProcessGone: If it has ended, or does not answer within `wait_s` seconds.
        """
        with self._ping_lock:
            self._pong.clear()
            self._send(Ping())
            # A second at a time: if this process is stopped meanwhile, the other one is blamed for one second only.
            if not any(self._pong.wait(1) for _ in range(wait_s)):
                raise TrainingProcessGone(f"the training process has not answered for {wait_s} s")
        if self._ended is not None:
            raise TrainingProcessGone(self._ended)

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)

    def _send(self, message: Configure | Compare | Evaluate | Start | Stop | RenewLease | Ping) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError as error:
            raise TrainingProcessGone(self._ended or "the training process has ended") from error

    def _receive(self) -> None:
        reason = ""
        with suppress(EOFError, OSError):
            while True:
                match self._connection.recv():
                    case (Reported() | Listening()) as reported:
                        self._on_report(reported)
                    case LeaseRenewed():
                        self._renewing = False
                    case Pong():
                        self._pong.set()
                    case (Compared() | EvaluationEnded()) as answer:
                        self._answers.put(answer)
                    case Ending(reason):
                        pass
                    case Ready(device, bfloat16):
                        self.device, self.bfloat16 = device, bfloat16
                        self._ready.set()
        code = self._process.wait()
        self.aborted = code == -signal.SIGABRT
        self._ended = f"the training process {f'ended: {reason}' if reason else _describe_end(code)}"
        self._connection.close()
        self._ready.set()
        self._pong.set()
        self._answers.put(None)
        self._on_end()


def _environment(configuration: Configure) -> dict[str, str]:
    # The child imports this package from where the actor did.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    # A training does not use Ray: it needs neither its token nor the rest of its variables.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(configuration.threads),
        # Needed by `deterministic` on a GPU, from the start of the process.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **MALLOC_ENVIRONMENT,
    }


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
