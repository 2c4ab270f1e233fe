"""The training process: it trains one attempt after another at the far end of a pipe, and keeps torch warm in between.

It is a process of its own because training in the Ray actor's, among Ray's threads, was measured to be 3 % slower; and
so an end by the system (out of memory, a crash of native code) leaves an actor behind that can say what happened.

`TrainingProcess` is the near end. The far end is `python -m worker.process.training_process FD`; it ends when the near
end does.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from worker.data.datasets import ImageDataset
from worker.distributed.rank import Place
from worker.events import CheckpointTaken, Event, Finished

if TYPE_CHECKING:
    from worker.checkpoints.checkpoint import Checkpoint
    from worker.distributed.process_group import ProcessGroup

Request = Literal["pause", "cancel"]
Files = Mapping[str, bytes]

MALLOC_ENVIRONMENT = {
    # glibc gives large blocks back to the system and gets them anew, zeroed page by page, on the next step. Kept in one
    # heap, a step reuses the memory of the step before. One arena, because the heaps of further ones hold 64 MiB each.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""The environment a training on a CPU needs from its start."""

END_TIMEOUT_S = 5.0


class TrainingProcessGone(RuntimeError):
    """The training process has ended, or does not answer."""


@dataclass(frozen=True)
class Prepare:
    """The first message: how to train. A training whose lease is not renewed for `lease_s` seconds ends."""

    threads: int
    lease_s: float
    gpu: bool


@dataclass(frozen=True)
class Ready:
    """The answer, once torch is loaded and warm."""

    device: str


@dataclass(frozen=True)
class Start:
    """Train an attempt, from the files of a checkpoint if there are any; with others if there is a place among them."""

    attempt_id: str
    spec: dict[str, Any]
    dataset: Path | ImageDataset
    checkpoint: Files | None
    place: Place | None = None


@dataclass(frozen=True)
class Ask:
    """Pause or cancel the attempt."""

    attempt_id: str
    request: Request


@dataclass(frozen=True)
class Renew:
    """Renew the lease."""


@dataclass(frozen=True)
class Renewed:
    """The answer: the process is alive."""


@dataclass(frozen=True)
class Reported:
    """An event of the attempt, and the files of a checkpoint."""

    attempt_id: str
    event: Event
    files: Files | None


@dataclass(frozen=True)
class Listening:
    """The first of several workers waits for the others at `address`, host:port."""

    attempt_id: str
    address: str


class TrainingProcess:
    """The near end: starts the process, hands it attempts, passes on what they report.

    `on_report` is called in a thread of its own; `on_end` likewise, once, when the process has ended.
    """

    def __init__(
        self, prepare: Prepare, on_report: Callable[[Reported | Listening], None], on_end: Callable[[], None]
    ) -> None:
        self.device = ""
        self._lease_s = prepare.lease_s
        self._on_report, self._on_end = on_report, on_end
        self._ready = threading.Event()
        self._ended: str | None = None
        self._sending = threading.Lock()
        self._unanswered_since: float | None = None
        near, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.process.training_process", str(far.fileno())],
                pass_fds=[far.fileno()],
                env=_environment(prepare),
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._connection = Connection(near.detach())
        # One that has ended by now is noticed, and its end explained, by the thread that listens.
        with suppress(TrainingProcessGone):
            self._send(prepare)
        threading.Thread(target=self._listen, name="training process", daemon=True).start()

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._ended is not None

    def wait_ready(self) -> None:
        """Wait until it is warm. Raises `TrainingProcessGone`."""
        self._ready.wait()
        self.check()

    def check(self) -> None:
        """Raise `TrainingProcessGone` if it has ended, or owes an answer for longer than a lease."""
        if self._ended is not None:
            raise TrainingProcessGone(self._ended)
        since = self._unanswered_since
        if since is not None and time.monotonic() - since > self._lease_s:
            raise TrainingProcessGone(f"the training process has not answered for {self._lease_s:g} s")

    def start(self, start: Start) -> None:
        """Have an attempt trained. Raises `TrainingProcessGone`."""
        self._send(start)

    def ask(self, ask: Ask) -> None:
        """Pass a request on. Raises `TrainingProcessGone`."""
        self._send(ask)

    def renew(self) -> None:
        """Renew the lease of what it trains. Raises `TrainingProcessGone`."""
        self.check()
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
            self._send(Renew())

    def end(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.wait(END_TIMEOUT_S)

    def _send(self, message: object) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError as error:
            raise TrainingProcessGone(self._ended or "the training process has ended") from error

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                match self._connection.recv():
                    case (Reported() | Listening()) as reported:
                        self._on_report(reported)
                    case Renewed():
                        self._unanswered_since = None
                    case Ready(device):
                        self.device = device
                        self._ready.set()
        self._ended = f"the training process {_ending(self._process.wait())}"
        self._connection.close()
        self._ready.set()
        self._on_end()


def _environment(prepare: Prepare) -> dict[str, str]:
    # The process is to find this package where the actor found it.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(prepare.threads),
        # What `deterministic` needs on a GPU, from the start of the process.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **MALLOC_ENVIRONMENT,
    }


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class _FarEnd:
    """The process itself: a thread listens, the main one trains."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._waiting: queue.SimpleQueue[Start] = queue.SimpleQueue()
        self._attempt_id = ""
        self._request: Request | None = None
        self._renewed_at = 0.0
        self._dataset: tuple[Path | str, ImageDataset] | None = None

    def serve(self) -> None:
        """Train whatever comes, until the near end is gone."""
        prepare: Prepare = self._connection.recv()
        self._lease_s = prepare.lease_s
        import torch

        torch.set_num_threads(prepare.threads)
        self._device = "cuda:0" if prepare.gpu and torch.cuda.is_available() else "cpu"
        from worker.process.warmup import warm_up

        warm_up(self._device)
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(Ready(self._device))
        while True:
            self._train(self._waiting.get())

    def _listen(self) -> None:
        try:
            while True:
                match self._connection.recv():
                    case Start() as start:
                        self._attempt_id, self._request = start.attempt_id, None
                        self._renewed_at = time.monotonic()
                        self._waiting.put(start)
                    case Ask(attempt_id, request) if attempt_id == self._attempt_id and self._request != "cancel":
                        self._request = request
                    case Renew():
                        self._renewed_at = time.monotonic()
                        self._send(Renewed())
        except (EOFError, OSError):
            os._exit(0)

    def _send(self, message: object) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            # Nobody is left to report to, and what trains on would be in the way of whoever comes next.
            os._exit(0)

    def _control(self) -> Request | None:
        if time.monotonic() - self._renewed_at > self._lease_s:
            return "cancel"
        return self._request

    def _train(self, start: Start) -> None:
        from worker.checkpoints.checkpoint import Checkpoint
        from worker.distributed.process_group import ALONE
        from worker.spec import TrainingSpec
        from worker.training.failures import explain
        from worker.training.loop import train

        def report(event: Event) -> None:
            self._send(Reported(start.attempt_id, event, None))

        def save(event: CheckpointTaken, checkpoint: "Checkpoint") -> None:
            self._send(Reported(start.attempt_id, event, checkpoint.files))

        group: ProcessGroup = ALONE
        try:
            if start.place is not None:
                group = self._join(start.attempt_id, start.place)
            train(
                TrainingSpec.model_validate(start.spec),
                self._images(start.dataset),
                device=self._device,
                report=report,
                save=save,
                control=self._control,
                resume=Checkpoint.from_files(start.checkpoint) if start.checkpoint else None,
                group=group,
            )
        except Exception as error:
            report(Finished(outcome="failed", failure=explain(error, None)))
        finally:
            group.close()

    def _join(self, attempt_id: str, place: Place) -> "ProcessGroup":
        import torch

        from worker.distributed.process_group import join

        return join(
            place,
            attempt_id,
            torch.device(self._device),
            announce=lambda address: self._send(Listening(attempt_id, address)),
            give_up=lambda: self._control() == "cancel",
        )

    def _images(self, dataset: Path | ImageDataset) -> ImageDataset:
        """The dataset; the one of the last attempt again if it is the same: what is on the GPU stays there."""
        key = dataset if isinstance(dataset, Path) else dataset.name
        if self._dataset is None or self._dataset[0] != key:
            from worker.data import mapped_files

            self._dataset = (key, mapped_files.read(dataset) if isinstance(dataset, Path) else dataset)
        return self._dataset[1]


if __name__ == "__main__":
    # Ctrl-C in a terminal reaches every process of its group; this one ends with the near end, and not before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Messages are pickled by the name of their class's module, which is not `__main__`.
    from worker.process.training_process import _FarEnd as FarEnd

    FarEnd(Connection(int(sys.argv[1]))).serve()
