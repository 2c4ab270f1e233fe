"""What users do with the service, in parts that end alike whether a process of the service crashes meanwhile or not."""

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from service.client import ApiError, Client
from service.jobs import TERMINAL
from service.store import Database, imports
from service.store.identifiers import new_id
from service.store.imports import ABANDONED_S
from service.store.tables import Import
from tests.acceptance.whole_service import Service
from tests.reliability.kills import FIRST_STEPS, STEPS_PER_EPOCH, STUDY, fault
from tests.reliability.report import Broken, promise

SMALL: dict[str, Any] = STUDY | {"epochs": 3}
TINY: dict[str, Any] = STUDY | {"epochs": 1, "schedule": {"type": "constant"}}


def jobs(service: Service) -> Any:
    """Jobs train, pause, resume and are cancelled."""
    client = service.client
    trained, paused, cancelled = (submit(client, SMALL) for _ in range(3))
    _ask(client, "pause", paused)
    _ask(client, "cancel", cancelled)
    service.until(lambda: client.job(paused)["status"] in ("paused", *TERMINAL), "the pause")
    _ask(client, "resume", paused)
    ended = [client.wait(job) for job in (trained, paused, cancelled)]
    promise([job["status"] for job in ended][:2] == ["succeeded"] * 2, f"jobs ended as {ended}")
    promise(ended[2]["status"] in ("cancelled", "succeeded"), f"a cancelled job {ended[2]['status']}")
    outcomes = {result(service, job) for job in (trained, paused)}
    promise(len(outcomes) == 1, "jobs with one seed differ")
    return outcomes.pop()


def changes(service: Service) -> Any:
    """A job is renamed, extended, evaluated and deleted; another one is cancelled and tried again; a view is saved."""
    client = service.client
    job = train(client, TINY)
    longer = client.extend(job, 2)["id"]
    client.change(job, name="renamed")
    ended = client.wait(longer)
    promise(ended["status"] == "succeeded", f"the extended job {ended['status']}: {ended['error']}")
    outcome = result(service, longer)
    evaluation = client.evaluate(client.checkpoint((job, "latest"))["id"], wait_s=0.1)
    name = client.job(job)["name"]
    endless = submit(client, TINY | {"epochs": 10_000})
    client.cancel(endless)
    client.wait(endless)
    again = client.retry(endless)["id"]
    client.cancel(again)
    client.wait(again)
    for one in (longer, job, again, endless):
        client.delete(one)
    left = {one["id"] for one in client.jobs()} & {longer, job, again, endless}
    return outcome, name, evaluation["status"], evaluation["error"], len(left), view(client)


def view(client: Client) -> int:
    """Save a view and delete it. Returns the number of views that are left."""
    # A second request after a lost answer finds the name taken.
    with suppress(ApiError):
        client._connection.json("POST", "/v1/views", json={"name": "mine", "path": "/jobs"})
    [saved] = client._connection.json("GET", "/v1/views")["data"]
    client._connection.request("DELETE", f"/v1/views/{saved['id']}")
    return len(client._connection.json("GET", "/v1/views")["data"])


def automatic_precision(service: Service) -> Any:
    """A job trains in a precision that the service chooses, and says which it is."""
    job = train(service.client, TINY | {"precision": "auto"})
    chosen = service.client.job(job)["precision"]
    promise(chosen in ("float32", "bfloat16"), f"the precision of a job is {chosen}")
    return tuple(sorted(service.rows(job).items()))


def damaged_checkpoint(service: Service) -> Any:
    """A paused job resumes although the files of its newest checkpoint are damaged."""
    job = submit(service.client, SMALL)
    service.wait_for_step(job, STEPS_PER_EPOCH + 1)
    _ask(service.client, "pause", job)
    service.until(lambda: service.client.job(job)["status"] in ("paused", *TERMINAL), "the pause")
    newest = service.client.checkpoint((job, "latest"))["id"]
    for file in (service.home / "artifacts" / job / newest).iterdir():
        os.truncate(file, 0)
    _ask(service.client, "resume", job)
    ended = service.client.wait(job)
    promise(ended["status"] == "succeeded", f"a job with a damaged checkpoint {ended['status']}: {ended['error']}")
    return result(service, job)


def two_workers(service: Service) -> Any:
    """Two workers train a job."""
    return result(service, train(service.client, TINY | {"num_workers": 2}))


def experiments(service: Service) -> Any:
    """An experiment with sequential seeds is changed, paused, resumed, shared, exported, deleted and imported."""
    client = service.client
    request = {
        "base": {field: value for field, value in TINY.items() if field not in ("normalization", "batch_size")},
        "grid": {"normalization": [{"type": "group"}, {"type": "batch"}], "batch_size": [16]},
        "seeds": {"min": 2, "max": 3},
    }
    experiment = client.experiments.submit(request, key())["id"]
    client.experiments.pause(experiment)
    client.experiments.change(experiment, name="changed")
    service.until(lambda: client.experiments.get(experiment)["status"] in ("paused", "finished"), "the pause")
    client.experiments.resume(experiment)
    link = client.experiments.share(experiment)["id"]
    client.experiments.unshare(experiment, link)
    service.until(lambda: client.experiments.get(experiment)["status"] == "finished", "the end of the experiment")
    before = contents(service, experiment)
    with tempfile.TemporaryDirectory() as folder:
        bundle = client.experiments.bundle(experiment, Path(folder, "bundle.zip"))
        client.experiments.delete(experiment)
        promise(client.experiments.import_bundle(bundle)["id"] == experiment, "the import has another id")
    promise(contents(service, experiment) == before, "an imported experiment differs from the exported one")
    client.experiments.delete(experiment)
    return before


def restarted(service: Service) -> Any:
    """Under a job the dispatcher is killed, alone and with the worker, and stopped."""
    job = submit(service.client, STUDY | {"epochs": 15})
    service.wait_for_step(job, FIRST_STEPS)
    service.kill("dispatcher")
    service.wait_for_step(job, service.client.job(job)["progress"]["step"] + 1)
    fault("dispatcher", "actor")(service)
    service.wait_for_step(job, service.client.job(job)["progress"]["step"] + 1)
    service.supervisor._children["dispatcher"].ask_to_end()
    service.client.wait(job)
    return result(service, job)


def without_ray(service: Service) -> Any:
    """A job is cancelled while Ray does not answer."""
    job = submit(service.client, TINY | {"epochs": 10_000})
    service.wait_for_step(job, 1)
    fault("gcs", number=signal.SIGSTOP)(service)
    service.client.cancel(job)
    ended = service.client.wait(job)
    service.kill("ray")
    return ended["status"], train(service.client, TINY) is not None


def without_ray_and_dispatcher(service: Service) -> Any:
    """A job is cancelled while Ray does not answer and the dispatcher that has started it is gone."""
    job = submit(service.client, TINY | {"epochs": 10_000})
    service.wait_for_step(job, 1)
    fault("gcs", number=signal.SIGSTOP)(service)
    service.kill("dispatcher")
    service.client.cancel(job)
    ended = service.client.wait(job)
    service.kill("ray")
    return ended["status"], train(service.client, TINY) is not None


def interrupted_import(service: Service) -> Any:
    """What a process that ended during an import has left is removed."""
    experiment = new_id("experiment")

    async def begin_import() -> None:
        async with Database(service.home / "normlab.db") as database, database.write() as session:
            await imports.begin(session, experiment)

    async def is_left() -> bool:
        async with Database(service.home / "normlab.db") as database, database.read() as session:
            return await session.get(Import, experiment) is not None

    asyncio.run(begin_import())
    # An API that crashes meanwhile looks again twice.
    service.until(lambda: not asyncio.run(is_left()) or None, "the end of the import", 5 * ABANDONED_S)


def contents(service: Service, experiment: str) -> Any:
    """Return what an experiment consists of, without ids and times."""
    found = service.client.experiments.get(experiment)
    listed = service.client.jobs(experiment=experiment)
    rows = [(job["title"], job["status"], tuple(sorted(service.rows(job["id"]).items()))) for job in listed]
    return found["name"], found["status"], sorted(rows)


PARTS: Mapping[str, Callable[[Service], Any]] = {
    "jobs": jobs,
    "changes": changes,
    "automatic precision": automatic_precision,
    "damaged checkpoint": damaged_checkpoint,
    "two workers": two_workers,
    "experiments": experiments,
    "restarted": restarted,
    "without Ray": without_ray,
    "without Ray and dispatcher": without_ray_and_dispatcher,
    "interrupted import": interrupted_import,
}


def key() -> str:
    """Return a new idempotency key."""
    return os.urandom(8).hex()


def submit(client: Client, spec: dict[str, Any]) -> str:
    """Queue a job and return its id."""
    job: str = client.submit(spec, idempotency_key=key())["id"]
    return job


def train(client: Client, spec: dict[str, Any]) -> str:
    """Queue a job and return its id when it has succeeded."""
    job = submit(client, spec)
    ended = client.wait(job)
    promise(ended["status"] == "succeeded", f"a job {ended['status']}: {ended['error']}")
    return job


def result(service: Service, job: str) -> Any:
    """Return the weights and the rows of a job."""
    return service.weights(job), tuple(sorted(service.rows(job).items()))


def _ask(client: Client, action: str, job: str) -> None:
    """Request an action, unless the job has ended."""
    if client.job(job)["status"] not in TERMINAL:
        try:
            getattr(client, action)(job)
        except Exception as error:
            if client.job(job)["status"] not in (*TERMINAL, "paused", "pausing", "cancelling"):
                raise Broken(f"{action}: {error}") from error


@contextmanager
def receiver() -> Iterator[str]:
    """Accept the webhook in a thread. Yields its address."""

    class Accepting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Accepting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
