"""The webhook: what it tells, how it proves who it is, and that nothing is lost."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import update

from service.dispatcher import end_command, webhooks
from service.dispatcher.leadership import Leadership
from service.experiments.request import ExperimentRequest, expand
from service.settings import Settings
from service.store import Database, deliveries, experiments, jobs
from service.store.submitters import Submitter
from service.store.tables import Delivery, Event
from tests.unit.service.dispatcher.conftest import no_report
from tests.unit.service.stand_in import CUT, Answer, StandIn, running
from tests.unit.service.store.acting import FINAL, Worker, create

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))


@pytest.fixture
def receiver() -> Iterator[StandIn]:
    with running() as receiver:
        receiver.on("POST", "/hook", Answer({}, 204))
        yield receiver


class Hook:
    """A dispatcher that sends when the test asks it to."""

    def __init__(self, database: Database, settings: Settings, http: httpx2.AsyncClient) -> None:
        self.database, self.settings, self.http = database, settings, http
        self.leadership = Leadership(database, 60, no_report)

    async def send(self) -> None:
        """Collect and send what is due."""
        await webhooks.send_due(self.settings, self.database, self.leadership, self.http)

    async def log(self) -> list[tuple[str, str, int, int | None]]:
        """Return event, status, tries and answer of each delivery, oldest first."""
        async with self.database.read() as session:
            found, _ = await deliveries.page(session)
        return [(one.event, one.status, one.tries, one.answer) for one in reversed(found)]

    async def make_due(self) -> None:
        """Let the pause before the next try pass."""
        async with self.database.write() as session:
            await session.execute(update(Delivery).values(not_before=datetime.now(UTC)))


@pytest.fixture
async def hook(database: Database, receiver: StandIn, tmp_path: Path) -> AsyncIterator[Hook]:
    secret = SecretStr("whsec_" + base64.b64encode(KEY).decode())
    settings = Settings(home=tmp_path, webhook_url=SecretStr(f"{receiver.url}/hook"), webhook_secret=secret)
    async with httpx2.AsyncClient(timeout=60, trust_env=False) as http:
        hook = Hook(database, settings, http)
        await hook.leadership.acquire()
        yield hook


async def study(database: Database, *seeds: int) -> str:
    grid = {"normalization": [{"type": "batch"}], "batch_size": [2], "seed": list(seeds)}
    request = ExperimentRequest.model_validate({"name": "study", "grid": grid}).resolved()
    async with database.write() as session:
        return (await experiments.create(session, request, expand(request), by=Submitter("ada"))).id


async def end_next(database: Database) -> str:
    worker = await Worker.run(database)
    await worker.finish()
    return worker.job


async def test_the_end_of_a_job_is_told_once_and_proves_who_tells_it(hook: Hook, receiver: StandIn) -> None:
    await create(hook.database, name="before")
    await end_next(hook.database)
    await hook.send()
    await create(hook.database, name="named")
    job = await end_next(hook.database)
    for _ in range(2):
        await hook.send()
    [request] = receiver.to("POST", "/hook")
    assert request.body["type"] == "job.ended"
    data = {"job": job, "title": "named", "status": "succeeded", "experiment": None, "submitted_by": None}
    assert request.body["data"] == data | {"path": f"/jobs/{job}"}
    sent_at = int(request.headers["webhook-timestamp"])
    assert abs(sent_at - datetime.now(UTC).timestamp()) < 600
    content = f"{request.headers['webhook-id']}.{sent_at}.{json.dumps(request.body)}".encode()
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert await hook.log() == [("job.ended", "delivered", 1, 204)]


async def test_an_experiment_is_told_when_its_last_job_has_ended_and_again_after_an_extension(
    hook: Hook, receiver: StandIn
) -> None:
    await hook.send()
    id_ = await study(hook.database, 0, 1)
    await end_next(hook.database)
    await hook.send()
    assert [request.body["type"] for request in receiver.requests] == ["job.ended"]
    worker = await Worker.run(hook.database)
    await worker.fail(FINAL)
    await hook.send()
    assert receiver.requests[-1].body["data"] == {
        "experiment": id_,
        "name": "study",
        "status": "finished",
        "counts": {"succeeded": 1, "failed": 1},
        "submitted_by": "ada",
        "path": f"/experiments/{id_}",
    }
    async with hook.database.write() as session:
        experiment = await experiments.get(session, id_, lock=True)
        longer = experiments.request_of(experiment).extended({"seed": [2]})
        await experiments.extend(session, experiment, longer, expand(longer))
    await end_next(hook.database)
    await hook.send()
    told = [request.body["type"] for request in receiver.requests]
    assert told.count("experiment.ended") == 2
    assert told.count("job.ended") == 3


async def test_what_is_not_accepted_is_repeated_later_with_the_same_id(hook: Hook, receiver: StandIn) -> None:
    receiver.on("POST", "/hook", Answer({}, 500), CUT, Answer({}, 302, {"Location": "/elsewhere"}), Answer({}, 200))
    await hook.send()
    await create(hook.database)
    await end_next(hook.database)
    for tries, answer in enumerate((500, None, 302), start=1):
        await hook.send()
        assert await hook.log() == [("job.ended", "pending", tries, answer)]
        await hook.send()
        assert len(receiver.requests) == tries, "it is not due yet"
        await hook.make_due()
    await hook.send()
    assert await hook.log() == [("job.ended", "delivered", 4, 200)]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert receiver.to("POST", "/elsewhere") == []


async def test_a_kill_between_sending_and_recording_sends_it_again(
    hook: Hook, receiver: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hook.send()
    await create(hook.database)
    await end_next(hook.database)

    async def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            await hook.send()
    await hook.send()
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert await hook.log() == [("job.ended", "delivered", 1, 204)]


async def test_a_receiver_that_never_accepts_is_given_up(
    hook: Hook, receiver: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_TRIES", 2)
    receiver.on("POST", "/hook", Answer({}, 500))
    await hook.send()
    await create(hook.database)
    await end_next(hook.database)
    for _ in range(3):
        await hook.send()
        await hook.make_due()
    assert await hook.log() == [("job.ended", "failed", 2, 500)]


async def test_what_was_imported_or_deleted_is_not_told(hook: Hook, receiver: StandIn) -> None:
    await hook.send()
    await create(hook.database)
    imported = await end_next(hook.database)
    gone = await study(hook.database, 0, 1)
    async with hook.database.write() as session:
        long_ago = datetime.now(UTC) - timedelta(days=3)
        await session.execute(update(Event).where(Event.job_id == imported).values(time=long_ago))
    await end_next(hook.database)
    await hook.send()
    async with hook.database.write() as session:
        await experiments.cancel(session, gone)
        await experiments.delete(session, gone)
    await hook.send()
    assert [request.body["type"] for request in receiver.requests] == ["job.ended"]
    assert receiver.requests[0].body["data"]["job"] != imported
    assert await hook.log() == [("job.ended", "delivered", 1, 204)]


async def test_a_cancelled_job_is_told_whichever_process_cancels_it(hook: Hook, receiver: StandIn) -> None:
    await hook.send()
    job = await create(hook.database)
    async with hook.database.write() as session:
        await jobs.cancel(session, job)
    await hook.send()
    assert receiver.requests[0].body["data"]["status"] == "cancelled"


async def test_a_command_gets_the_end_of_a_job_and_is_run_again_until_it_succeeds(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMLAB_WEBHOOK_SECRET", "whsec_secret")
    script = tmp_path / "told.sh"
    # The first time it fails, after it has read everything.
    script.write_text('cd "$1"; cat > body; env > environment; test -e again || { touch again; exit 3; }')
    settings = Settings(home=tmp_path, webhook_secret=None, end_command=f"sh {script} '{tmp_path}'")
    async with httpx2.AsyncClient() as http:
        hook = Hook(database, settings, http)
        await hook.leadership.acquire()
        await hook.send()
        await create(database, name="named")
        job = await end_next(database)
        await hook.send()
        assert await hook.log() == [("job.ended", "pending", 1, None)]
        await hook.make_due()
        await hook.send()
    assert await hook.log() == [("job.ended", "delivered", 2, None)]
    body = json.loads((tmp_path / "body").read_text())
    assert (body["type"], body["data"]["job"]) == ("job.ended", job)
    environment = (tmp_path / "environment").read_text()
    assert "NORMLAB_DELIVERY=delivery_" in environment
    assert "NORMLAB_WEBHOOK_SECRET" not in environment


@pytest.mark.parametrize(("command", "reason"), [("no-such-command", "cannot be run"), ("sleep 60", "not ended after")])
async def test_a_command_that_cannot_run_or_does_not_end_is_recorded(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
) -> None:
    monkeypatch.setattr(end_command, "TIMEOUT_S", 0.1)
    async with httpx2.AsyncClient() as http:
        hook = Hook(database, Settings(home=tmp_path, end_command=command), http)
        await hook.leadership.acquire()
        await hook.send()
        await create(database)
        await end_next(database)
        await hook.send()
    async with database.read() as session:
        [delivery], _ = await deliveries.page(session)
    assert delivery.error is not None
    assert reason in delivery.error


async def test_without_a_url_nothing_is_read(database: Database, tmp_path: Path) -> None:
    leadership = Leadership(database, 60, no_report)
    await webhooks.keep(Settings(home=tmp_path), database, leadership)
    async with database.read() as session:
        assert await deliveries.has_news(session)
