"""The migrations create the tables of the code on both databases, also when run repeatedly or concurrently."""

import asyncio
import logging
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pytest_postgresql.executors import PostgreSQLExecutor
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import OperationalError

from service.jobs import Status
from service.store import Database, leases, migrate
from service.store.tables import Attempt, Experiment, Idempotency, Job, JobLabel, Lease, MetricSummary, Table
from tests.postgres import administer, create_database

pytestmark = pytest.mark.anyio


async def schema(database: Database) -> set[tuple[object, ...]]:
    """Return the tables, columns, indexes and constraints of a database, without the version table."""
    queries = (
        [
            "SELECT type, tbl_name, name, sql FROM sqlite_schema "
            "WHERE tbl_name NOT IN ('alembic_version', 'sqlite_sequence')"
        ]
        if database.is_sqlite
        else [
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
            "SELECT tablename, indexname, indexdef FROM pg_indexes "
            "WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'",
        ]
    )
    found: set[tuple[object, ...]] = set()
    async with database.read() as session:
        for query in queries:
            found |= {tuple(_normal(value) for value in row) for row in await session.execute(text(query))}
    return found


def _normal(value: object) -> object:
    """Normalize a statement of SQLite, which keeps the order of constraints and the quotes of renamed tables."""
    if not isinstance(value, str):
        return value
    return tuple(
        sorted(line.strip().rstrip(",") for line in re.sub('^(CREATE TABLE) "(.*?)"', r"\1 \2", value).split("\n"))
    )


async def test_the_migrations_make_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(Table.metadata.create_all)
        of_the_code = await schema(database)
        async with database.migrate() as connection:
            await connection.run_sync(Table.metadata.drop_all)
        assert await schema(database) == set()
        await migrate.upgrade(database)
        assert await schema(database) == of_the_code


async def test_autogenerate_finds_no_difference(database: Database) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), Table.metadata)

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_what_an_older_release_stored_is_kept(empty_database_url: str) -> None:
    job = {
        "id": "job_1",
        "name": "old",
        "spec": "{}",
        "priority": 0,
        "max_retries": 2,
        "model": "vgg",
        "normalization": "batch",
        "batch_size": 2,
        "seed": 0,
        "status": "succeeded",
        "attempts": 1,
        "failures": 0,
        "losses": 0,
        "summary": '{"test_error": {"best": 0.25, "best_step": 1, "last": 0.5, "last_step": 2}, "x": {"last": 1}}',
        **dict.fromkeys(("created_at", "updated_at", "queued_at"), "2026-01-01 00:00:00+00:00"),
    }
    attempt = {"id": "attempt_1", "job_id": "job_1", "number": 1, "worker": "w", "node": "n", "last_seq": 3}
    attempt |= {"resumed_from_step": 0, "started_at": job["created_at"]}
    key = {"client": "ann", "key": "k", "fingerprint": "f", "job_id": "job_1", "created_at": job["created_at"]}
    label = {"job_id": "job_1", "key": "study", "value": "old"}

    def to_the_first(connection: Connection) -> None:
        command.upgrade(migrate._configuration(connection), "0001")
        for table, row in (("jobs", job), ("attempts", attempt), ("idempotency", key), ("labels", label)):
            values = ", ".join(_literal(value) for value in row.values())
            connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})")

    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(to_the_first)
        await migrate.upgrade(database)
        async with database.read() as session:
            kept = await session.get(Job, "job_1")
            assert kept is not None
            assert (kept.name, kept.notes, kept.cell, kept.status) == ("old", "", None, Status.SUCCEEDED)
            sorted_by = (await session.scalars(select(MetricSummary))).all()
            assert [(row.job_id, row.name, row.last, row.best) for row in sorted_by] == [
                ("job_1", "test_error", 0.5, 0.25)
            ]
            run = await session.get(Attempt, "attempt_1")
            assert run is not None
            assert (run.job_id, run.last_seq, run.precision) == ("job_1", 3, None)
            usage = (run.cpu_s, run.peak_memory_bytes, run.peak_gpu_memory_bytes, run.gpu_utilization)
            assert usage == (None, None, None, None)
            assert run.workers == [{"worker": "w", "node": "n"}]
            answer = await session.get(Idempotency, ("ann", "k"))
            assert answer is not None
            assert answer.answer == "job_1"
            assert await session.get(JobLabel, ("job_1", "study")) is not None


async def test_the_workers_of_attempts_and_the_requested_states_are_kept(empty_database_url: str) -> None:
    at = "2026-01-01 00:00:00+00:00"
    job = {"id": "job_1", "name": "", "spec": "{}", "priority": 0, "max_retries": 2, "model": "vgg", "seed": 0}
    job |= {"normalization": "batch", "batch_size": 2, "status": "succeeded", "attempts": 2, "failures": 0, "losses": 0}
    job |= {"summary": "{}", "created_at": at, "updated_at": at, "queued_at": at}
    alone = {"job_id": "job_1", "worker": "w's", "node": 'n"1', "last_seq": 1, "resumed_from_step": 0, "started_at": at}
    pair = '[{"worker": "w0", "node": "n0"}, {"worker": "w1", "node": "n1"}]'
    experiment = {"name": "", "request": "{}", "priority": 0, "deciding": False, "created_at": at, "updated_at": at}
    rows = [
        ("jobs", job),
        ("attempts", alone | {"id": "attempt_1", "number": 1}),
        ("attempts", alone | {"id": "attempt_2", "number": 2, "worker": "w0", "node": "n0", "workers": pair}),
        ("experiments", experiment | {"id": "exp_1", "wish": "paused"}),
        ("experiments", experiment | {"id": "exp_2"}),
    ]

    def to_the_one_before(connection: Connection) -> None:
        command.upgrade(migrate._configuration(connection), "0005")
        for table, row in rows:
            values = ", ".join(_literal(value) for value in row.values())
            connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})")

    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(to_the_one_before)
        await migrate.upgrade(database)
        async with database.read() as session:
            found = (await session.scalars(select(Attempt).order_by(Attempt.number))).all()
            assert [attempt.workers for attempt in found] == [
                [{"worker": "w's", "node": 'n"1'}],
                [{"worker": "w0", "node": "n0"}, {"worker": "w1", "node": "n1"}],
            ]
            states = await session.execute(select(Experiment.id, Experiment.requested_state).order_by(Experiment.id))
            assert [tuple(row) for row in states] == [("exp_1", "paused"), ("exp_2", None)]


async def test_jobs_and_experiments_get_the_precision_in_which_they_ran(empty_database_url: str) -> None:
    at = "2026-01-01 00:00:00+00:00"
    job = {"name": "", "priority": 0, "max_retries": 2, "model": "vgg", "normalization": "batch", "batch_size": 2}
    job |= {"seed": 0, "status": "succeeded", "attempts": 1, "failures": 0, "losses": 0, "summary": "{}"}
    job |= {"created_at": at, "updated_at": at, "queued_at": at}
    attempt = {"workers": "[]", "last_seq": 1, "resumed_from_step": 0, "started_at": at}
    experiment = {"name": "", "request": "{}", "priority": 0, "deciding": False, "created_at": at, "updated_at": at}
    auto, named = '{"precision": "auto"}', '{"precision": "bfloat16"}'
    rows = [("experiments", experiment | {"id": id_}) for id_ in ("on_cpu", "on_gpu", "on_both", "not_yet", "named")]
    ran: list[tuple[str, str, list[tuple[str | None, str | None]]]] = [
        ("on_cpu", auto, [("cpu", "float32")]),
        ("on_cpu", named, [("cpu", "bfloat16")]),
        ("on_cpu", auto, []),
        ("on_cpu", auto, [("cpu", None)]),
        ("on_gpu", auto, [("cuda:0 (H200)", "bfloat16"), (None, None)]),
        ("on_gpu", auto, [("cuda:0 (H200)", None)]),
        ("on_both", auto, [("cuda:0 (H200)", "bfloat16")]),
        ("on_both", auto, [("cpu", "float32")]),
        ("not_yet", auto, []),
        ("named", named, []),
        ("named", "{}", []),
    ]
    for number, (experiment_id, spec, devices) in enumerate(ran):
        rows.append(("jobs", job | {"id": f"job_{number:02}", "experiment_id": experiment_id, "spec": spec}))
        for count, (device, precision) in enumerate(devices, 1):
            reported = {"device": device, "precision": precision}
            known: dict[str, object] = {name: value for name, value in reported.items() if value is not None}
            of_it = {"id": f"attempt_{number}_{count}", "job_id": f"job_{number:02}", "number": count}
            rows.append(("attempts", attempt | of_it | known))

    def to_the_one_before(connection: Connection) -> None:
        command.upgrade(migrate._configuration(connection), "0006")
        for table, row in rows:
            values = ", ".join(_literal(value) for value in row.values())
            connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})")

    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(to_the_one_before)
        await migrate.upgrade(database)
        async with database.read() as session:
            found = (await session.scalars(select(Job.precision).order_by(Job.id))).all()
            query = select(Experiment.id, Experiment.precision)
            kept = {row.id: row.precision for row in await session.execute(query)}
    assert found == [
        "float32",
        "bfloat16",
        None,
        "float32",
        "bfloat16",
        None,
        "bfloat16",
        "float32",
        None,
        "bfloat16",
        None,
    ]
    assert kept == {
        "on_cpu": "float32",
        "on_gpu": "bfloat16",
        "on_both": "float32",
        "not_yet": None,
        "named": None,
    }


async def test_a_lease_of_an_earlier_version_counts_as_released(empty_database_url: str) -> None:
    at = "2026-01-01 00:00:00+00:00"

    def to_the_one_before(connection: Connection) -> None:
        command.upgrade(migrate._configuration(connection), "0007")
        connection.exec_driver_sql(
            "INSERT INTO leases (role, holder, expires_at, renewed_at, report) "
            f"VALUES ('dispatcher', 'old', '{at}', '{at}', '{{}}')"
        )

    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(to_the_one_before)
        await migrate.upgrade(database)
        async with database.write() as session:
            lease = await session.get(Lease, "dispatcher")
            assert lease is not None
            assert (lease.holder, lease.beats, lease.lease_s) == ("old", 0, 0)
            assert await leases.acquire(session, "dispatcher", "new", 5, {})


def _literal(value: object) -> str:
    return "'{}'".format(value.replace("'", "''")) if isinstance(value, str) else str(value)


async def test_upgrading_again_changes_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    before = await schema(database)
    with caplog.at_level(logging.INFO, "service.store.migrate"):
        await migrate.upgrade(database)
    assert await schema(database) == before
    assert not caplog.records
    await migrate.check(database)


async def test_processes_that_migrate_at_once_wait_for_one_another(empty_database_url: str) -> None:
    async def one_process() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.store.migrate",
            env={"NORMLAB_DATABASE_URL": empty_database_url, "HOME": "/nonexistent"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        return process.returncode, errors.decode()

    ended = await asyncio.gather(*(one_process() for _ in range(3)))
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert sum("from revision none" in errors for _, errors in ended) == 1, "exactly one of them made the tables"
    async with Database(empty_database_url) as database:
        await migrate.check(database)


async def test_a_database_without_tables_is_recognized(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database:
        with pytest.raises(migrate.SchemaMismatch, match=r"no tables yet: run `python -m service.store.migrate`"):
            await migrate.check(database)
        await migrate.upgrade(database)
        await migrate.check(database)


async def test_an_older_schema_is_named_with_what_to_do(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "_head", lambda: "8888")
    with pytest.raises(migrate.SchemaMismatch, match=r"at revision \d{4} .* needs 8888: run `python -m"):
        await migrate.check(database)


async def test_a_newer_schema_is_left_alone(database: Database) -> None:
    async with database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = await schema(database)
    for act in (migrate.check, migrate.upgrade):
        with pytest.raises(migrate.SchemaMismatch, match="9999, which this version of normlab"):
            await act(database)
    assert await schema(database) == before


async def test_a_failed_migration_leaves_no_trace(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database:

        async def fail() -> None:
            async with database.migrate() as connection:
                await connection.run_sync(Table.metadata.create_all)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await schema(database) == set()


async def test_foreign_keys_hold_again_after_a_migration(database: Database) -> None:
    await migrate.upgrade(database)
    async with database.write() as session:
        if database.is_sqlite:
            assert (await session.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The URL of a PostgreSQL server that does not answer."""
    with socket.socket() as unlistened:
        unlistened.bind(("127.0.0.1", 0))
        yield f"postgresql://nobody@127.0.0.1:{unlistened.getsockname()[1]}/none"


async def test_a_database_that_is_not_up_is_waited_for_and_then_given_up(
    silent_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Database(silent_url) as database:
        with pytest.raises(OperationalError):
            await migrate.wait(database, timeout_s=0.3)
    assert "does not answer, waiting up to" in caplog.text


@pytest.mark.postgres
async def test_a_database_that_somebody_migrates_meanwhile_is_waited_for(
    postgres_server: PostgreSQLExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create_database(postgres_server, "settling")
    told: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(migrate.log, "warning", lambda message, *_arguments: told.put_nowait(message))
    async with Database(url) as waiting, Database(url) as migrating:
        settled = asyncio.create_task(migrate.settle(waiting, timeout_s=60))
        assert "for the migration of the database" in await told.get()
        assert not settled.done()
        await migrate.upgrade(migrating)
        await settled
        assert told.empty(), "once is enough"
    administer(postgres_server, "DROP DATABASE settling WITH (FORCE)")


async def test_nobody_is_waited_for_who_never_comes(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Database(empty_database_url) as database:
        with pytest.raises(migrate.NotMigrated, match="no tables yet"):
            await migrate.settle(database, timeout_s=0)
        await migrate.upgrade(database)
        await migrate.settle(database, timeout_s=0)
        monkeypatch.setattr(migrate, "_known", lambda: frozenset({"another"}))
        with pytest.raises(migrate.SchemaMismatch, match="does not know"):
            await migrate.settle(database, timeout_s=600)


def test_the_next_revision_is_written_from_the_tables(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(migrate.MIGRATIONS, tmp_path / "100% migrations"))
    for revision in (folder / "versions").glob("*.py"):
        revision.unlink()
    script = migrate.write_revision("All of them", folder)
    assert script.parent == folder / "versions"
    assert "sa.Column('seed', sa.BigInteger()" in script.read_text()
    assert "service." not in script.read_text(), "a revision does not depend on code that changes after it"


def test_the_command_says_in_a_sentence_why_it_fails(
    silent_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrate, "WAIT_S", 0.0)
    monkeypatch.setenv("NORMLAB_DATABASE_URL", silent_url)
    assert migrate.main([]) == 1
    assert "The database does not answer: connection failed" in capsys.readouterr().err

    (tmp_path / "file").touch()
    monkeypatch.setenv("NORMLAB_DATABASE_URL", f"sqlite:///{tmp_path}/file/normlab.db")
    assert migrate.main([]) == 1
    assert f"The database cannot be opened: [Errno 17] File exists: '{tmp_path}/file'" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["me:sesame@127.0.0.1:1/normlab", "127.0.0.1:1/normlab?user=me&password=sesame"])
def test_the_password_of_a_database_is_not_in_its_errors(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, url: str
) -> None:
    monkeypatch.setattr(migrate, "WAIT_S", 0.0)
    monkeypatch.setenv("NORMLAB_DATABASE_URL", f"postgresql://{url}")
    assert migrate.main([]) == 1
    said = "".join(capfd.readouterr()) + caplog.text
    assert "127.0.0.1" in said
    assert "sesame" not in said
