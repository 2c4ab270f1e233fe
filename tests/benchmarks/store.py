"""The response times of the API with many jobs, on SQLite and on PostgreSQL: lists of jobs, results, and claims.

    python tests/benchmarks/store.py [--jobs 100000] [--rounds 50] [--only sqlite|postgres] [--json FILE]

The database contains experiments of 1,000 jobs; the jobs of one experiment have 100 epochs of metrics each. The
requests go through the whole application, without a network. They take turns, so that a disturbance of the machine
affects all.
"""

import argparse
import asyncio
import gc
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.app import create_app
from service.experiments.request import ExperimentRequest, PlannedJob, expand
from service.jobs import Status
from service.settings import Settings
from service.store import Database, attempts, experiments, migrate
from service.store.identifiers import new_id
from service.store.metrics import sort_by_summary, summarize
from service.store.tables import Attempt, Job, Metric, MetricSummary
from tests.postgres import create_database, private_server

EPOCHS = 100
WORKERS = [{"worker": "worker", "node": "node"}]
GRID = {
    "normalization": [{"type": kind} for kind in ("batch", "layer", "instance", "group")],
    "batch_size": [2, 4, 8, 16, 32],
    "seed": list(range(50)),
}
BASE = {"epochs": EPOCHS}
BODY: dict[str, Any] = {"name": "a thousand", "base": BASE, "grid": GRID}
TARGETS_MS = {"jobs": 20, "results": 200}


def main() -> None:
    """Run the measurements and print a line for each request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {arguments.jobs} jobs")
    measured: dict[str, dict[str, list[float]]] = {}
    for name in ("sqlite", "postgres"):
        if arguments.only in (None, name):
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                url = f"sqlite+aiosqlite:///{folder}/normlab.db"
                if name == "postgres":
                    url = create_database(stack.enter_context(private_server()), "normlab")
                settings = Settings(home=Path(folder), database_url=SecretStr(url))
                measured[name] = asyncio.run(measure(name, settings, arguments.jobs, arguments.rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured))


async def measure(name: str, settings: Settings, num_jobs: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each request, by its name."""
    async with Database(settings.database) as database:
        await migrate.upgrade(database)
        began = time.perf_counter()
        ran = await fill(database, num_jobs)
        if not database.is_sqlite:
            await vacuum(database)
        print(f"\n{name}: filled in {time.perf_counter() - began:.0f} s")
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=ASGITransport(app), base_url="http://localhost", timeout=60) as http,
        ):
            acts = await requests(http, database, ran)
            taken: dict[str, list[float]] = {act: [] for act in acts}
            # Exclude the objects that filling the database created from garbage collections.
            gc.collect()
            gc.freeze()
            for number in range(rounds + 3):
                for act, do in acts.items():
                    began = time.perf_counter()
                    await do()
                    if number >= 3:
                        taken[act].append(1000 * (time.perf_counter() - began))
    for act, milliseconds in taken.items():
        p50, p95 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1]
        target = TARGETS_MS.get(act.split()[0])
        goal = "" if target is None else f"  (target {target} ms {'reached' if p95 <= target else 'missed'})"
        print(f"{act:42}  n {len(milliseconds):3}  p50 {p50:7.1f} ms  p95 {p95:7.1f} ms{goal}")
    return taken


async def requests(http: AsyncClient, database: Database, ran: str) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return the requests to measure, by name."""

    def get(path: str, **headers: str) -> Callable[[], Awaitable[None]]:
        async def do() -> None:
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 200, answer.text

        return do

    async def claim() -> None:
        async with database.write() as session:
            assert await attempts.claim(session, [attempts.FreeWorker("worker", "node")], slots=8) is not None

    async def submit_thousand() -> None:
        answer = await http.post("/v1/experiments", json=BODY)
        assert answer.status_code == 201, answer.text

    async def look() -> None:
        async with database.read() as session:
            await attempts.pending(session, 3, 2)
            await experiments.due_for_interim_analysis(session)

    cursor = (await http.get("/v1/jobs?limit=200")).json()["next_cursor"]
    by_error = (await http.get("/v1/jobs?limit=200&sort=test_error")).json()["next_cursor"]
    results = f"/v1/experiments/{ran}/results"
    return {
        "jobs": get("/v1/jobs"),
        "jobs, the next page": get(f"/v1/jobs?cursor={cursor}"),
        "jobs of an experiment": get(f"/v1/jobs?experiment={ran}"),
        "jobs that failed": get("/v1/jobs?status=failed"),
        "jobs that run (none)": get("/v1/jobs?status=running"),
        "jobs by norm and batch size": get("/v1/jobs?normalization=group&batch_size=2"),
        "jobs by label": get("/v1/jobs?label=study:paper"),
        "jobs by priority": get("/v1/jobs?sort=-priority"),
        "jobs by test error": get("/v1/jobs?sort=test_error"),
        "jobs by test error, the next page": get(f"/v1/jobs?sort=test_error&cursor={by_error}"),
        "jobs by test error and time": get("/v1/jobs?sort=-test_error.best,-created_at"),
        "jobs by norm and test error": get("/v1/jobs?sort=normalization,test_error"),
        "jobs of one norm by test error": get("/v1/jobs?normalization=group&sort=test_error"),
        "jobs of an experiment by test error": get(f"/v1/jobs?experiment={ran}&sort=test_error"),
        "results of 1,000 jobs × 100 epochs": get(results),
        "results, median of the last five": get(f"{results}?statistic=median_last_5"),
        "results at a step": get(f"{results}?statistic=at_step&step=50"),
        "results as CSV": get(results, accept="text/csv"),
        "a scrape": get("/metrics"),
        "experiment": get(f"/v1/experiments/{ran}"),
        "experiments": get("/v1/experiments"),
        "an experiment of 1,000 jobs submitted": submit_thousand,
        "a claim": claim,
        "a look of the dispatcher": look,
    }


async def fill(database: Database, num_jobs: int) -> str:
    """Create `num_jobs` jobs, and return the id of the experiment whose jobs have metrics."""
    request = ExperimentRequest.model_validate(BODY).resolved()
    planned = expand(request)
    ids = []
    experiment_count = max(1, num_jobs // len(planned))
    for number in range(experiment_count):
        if number == experiment_count - 1:
            request = ExperimentRequest.model_validate(
                BODY | {"base": {**BASE, "labels": {"study": "paper"}}}
            ).resolved()
            planned = expand(request)
        async with database.write() as session:
            ids.append((await experiments.create(session, request, planned)).id)
        status = (Status.QUEUED, Status.FAILED, *[Status.SUCCEEDED] * 18)[number % 20]
        async with database.write() as session:
            await session.execute(update(Job).where(Job.experiment_id == ids[-1]).values(status=status))
            if status is Status.SUCCEEDED:
                await measure_all(session, ids[-1])
    await train(database, ids[-1], planned)
    return ids[-1]


async def measure_all(session: AsyncSession, experiment_id: str) -> None:
    """Store a last and a best value of three metrics for every job of an experiment."""
    rows = []
    for job_id in (await session.scalars(select(Job.id).where(Job.experiment_id == experiment_id))).all():
        error = int(hashlib.sha256(job_id.encode()).hexdigest()[:6], 16) / 2**24
        for name, value in (("test_error", error), ("test_loss", 3 * error), ("images_per_s", 1000 * error)):
            rows.append({"job_id": job_id, "name": name, "last": value, "best": value * 0.9})
    await session.execute(insert(MetricSummary), rows)


async def vacuum(database: Database) -> None:
    """Vacuum and analyze the tables, as PostgreSQL's autovacuum does within a minute."""
    async with database.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE"))


async def train(database: Database, experiment_id: str, planned: list[PlannedJob]) -> None:
    """Store an attempt and 100 epochs of metrics for every job of an experiment."""
    now = datetime.now(UTC)
    async with database.write() as session:
        job_ids = (await session.scalars(select(Job.id).where(Job.experiment_id == experiment_id))).all()
        rows: list[dict[str, Any]] = []
        held: list[dict[str, Any]] = []
        for number, job_id in enumerate(job_ids):
            attempt = new_id("attempt")
            held.append({"id": attempt, "job_id": job_id, "number": 1, "workers": WORKERS})
            held[-1] |= {"last_seq": EPOCHS, "resumed_from_step": 0, "started_at": now, "precision": "float32"}
            held[-1] |= {"device": "cpu", "ended_at": now + timedelta(seconds=100), "outcome": "succeeded"}
            summary: dict[str, Any] = {}
            for epoch in range(1, EPOCHS + 1):
                error = 0.9 / epoch + (number * epoch * 7919 % 1000) / 10_000
                values = {"test_error": error, "test_loss": 2 * error, "images_per_s": 1000.0}
                summary = summarize(summary, epoch * 10, values)
                rows.append({"job_id": job_id, "attempt_id": attempt, "seq": epoch, "kind": "eval", "epoch": epoch})
                rows[-1] |= {"step": epoch * 10, "time": now, "values": values, "superseded": False}
            changed = {"summary": summary, "status": Status.SUCCEEDED, "attempt_id": attempt, "finished_at": now}
            await session.execute(update(Job).where(Job.id == job_id).values(**changed))
            await session.execute(delete(MetricSummary).where(MetricSummary.job_id == job_id))
            await sort_by_summary(session, {job_id: summary})
        await session.execute(insert(Attempt), held)
        await session.execute(insert(Metric), rows)


if __name__ == "__main__":
    main()
