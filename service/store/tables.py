"""The tables of the database."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, MetaData, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.jobs import Status
from service.store.columns import JSONObject, PlainText, StatusText, UTCDateTime

NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


_ROW_ID = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    """The base class of all tables, with the column types of Python's types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        str: PlainText,
        datetime: UTCDateTime,
        dict[str, Any]: JSONObject,
        Status: StatusText,
    }


class Job(Table):
    """A job: its request, its status, and the summary of its metrics.

    `precision` is null until the precision `auto` of its spec is resolved. `from_checkpoint` is the checkpoint that it
    starts from: one of the job that it `extends`, with its whole state, or else of any job, with its weights.
    `submitted_by` is the name of the token with which it was submitted.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    notes: Mapped[str] = mapped_column(default="", server_default="")
    spec: Mapped[dict[str, Any]]
    priority: Mapped[int]
    max_retries: Mapped[int]
    experiment_id: Mapped[str | None]
    cell: Mapped[str | None]
    retry_of: Mapped[str | None] = mapped_column(unique=True)
    extends: Mapped[str | None] = mapped_column(index=True)
    from_checkpoint: Mapped[str | None] = mapped_column(index=True)
    submitted_by: Mapped[str | None]

    model: Mapped[str]
    normalization: Mapped[str]
    batch_size: Mapped[int]
    num_workers: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    seed: Mapped[int] = mapped_column(BigInteger)
    precision: Mapped[str | None]

    status: Mapped[Status]
    error: Mapped[dict[str, Any] | None]
    attempt_id: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any]] = mapped_column(default=dict)

    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    not_before: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        # Covers the columns of queued jobs that a claim reads.
        Index(
            "ix_jobs_waiting",
            "status",
            "queued_at",
            "priority",
            "experiment_id",
            "not_before",
            "id",
            "num_workers",
            "submitted_by",
        ),
        Index("ix_jobs_experiment_id_status_retry_of", "experiment_id", "status", "retry_of"),
        # The pages of the job list: the columns of a filter, then those of the order.
        Index("ix_jobs_created_at_id", "created_at", "id"),
        Index("ix_jobs_status_created_at_id", "status", "created_at", "id"),
        Index("ix_jobs_experiment_id_created_at_id", "experiment_id", "created_at", "id"),
        Index("ix_jobs_normalization_batch_size_created_at_id", "normalization", "batch_size", "created_at", "id"),
        Index("ix_jobs_batch_size_created_at_id", "batch_size", "created_at", "id"),
        Index("ix_jobs_model_created_at_id", "model", "created_at", "id"),
        Index("ix_jobs_submitted_by_created_at_id", "submitted_by", "created_at", "id"),
        Index("ix_jobs_priority_id", "priority", "id"),
        Index(
            "uq_jobs_seed_of_cell",
            "experiment_id",
            "cell",
            "seed",
            unique=True,
            sqlite_where=text("cell IS NOT NULL AND retry_of IS NULL"),
            postgresql_where=text("cell IS NOT NULL AND retry_of IS NULL"),
        ),
    )


class Experiment(Table):
    """A grid of jobs.

    `requested_state` is the state that was last requested for all its jobs: "paused", "cancelled", or null. `deciding`
    is true while jobs may be added that depend on others: further sequential seeds, or tuned jobs after a search.
    `precision` is that of its jobs with the precision `auto`, null until it is resolved.
    """

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    request: Mapped[dict[str, Any]]
    priority: Mapped[int]
    requested_state: Mapped[str | None]
    deciding: Mapped[bool] = mapped_column(index=True)
    precision: Mapped[str | None]
    submitted_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]


class Share(Table):
    """A link that shows one experiment to whoever has its token, of which only the hash is stored."""

    __tablename__ = "shares"

    id: Mapped[str] = mapped_column(primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    anonymous: Mapped[bool]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class Import(Table):
    """An import of an experiment that is in progress, and the number of slices it has stored. It hides their jobs."""

    __tablename__ = "imports"

    experiment_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str]
    slices: Mapped[int]


class JobLabel(Table):
    """One label of a job."""

    __tablename__ = "labels"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]

    __table_args__ = (Index("ix_labels_key_value", "key", "value"),)


class Attempt(Table):
    """One run of a job. `workers` lists a `worker` and its `node` for each rank, in the order of the ranks.

    The usage is that of the training process of rank 0, null before its first report.
    """

    __tablename__ = "attempts"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    workers: Mapped[list[dict[str, str]]] = mapped_column(JSONObject)
    device: Mapped[str | None]
    precision: Mapped[str | None]
    versions: Mapped[dict[str, Any] | None]
    last_seq: Mapped[int] = mapped_column(default=0)
    resumed_from_step: Mapped[int] = mapped_column(default=0)
    cpu_s: Mapped[float | None] = mapped_column(Double)
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    peak_gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_utilization: Mapped[float | None] = mapped_column(Double)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    reason: Mapped[str | None]


class Event(Table):
    """An event in the stream of a job. `seq` is the sequence number of the report that it records, if any."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(_ROW_ID, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt_id: Mapped[str | None]
    seq: Mapped[int | None]
    type: Mapped[str]
    time: Mapped[datetime]
    data: Mapped[dict[str, Any]]

    __table_args__ = (
        Index("ix_events_job_id_id", "job_id", "id"),
        Index("ix_events_job_id_type_id", "job_id", "type", "id"),
        UniqueConstraint("attempt_id", "seq"),
        {"sqlite_autoincrement": True},
    )


class Metric(Table):
    """A row of metrics. A row is superseded if a later attempt resumed from a checkpoint before it.

    Rows that a job has of the job that it extends have its own id in `attempt_id`.
    """

    __tablename__ = "metrics"

    id: Mapped[int] = mapped_column(_ROW_ID, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt_id: Mapped[str]
    seq: Mapped[int]
    kind: Mapped[str]
    epoch: Mapped[int]
    step: Mapped[int]
    time: Mapped[datetime]
    values: Mapped[dict[str, Any]]
    superseded: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (
        UniqueConstraint("attempt_id", "seq"),
        Index("ix_metrics_job_id_kind_step", "job_id", "kind", "step"),
        Index(
            "uq_metrics_live",
            "job_id",
            "kind",
            "step",
            unique=True,
            sqlite_where=text("NOT superseded"),
            postgresql_where=text("NOT superseded"),
        ),
    )


class MetricSummary(Table):
    """The last and the best value of one metric of a job, copied from its summary to sort jobs by them."""

    __tablename__ = "summaries"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    last: Mapped[float]
    best: Mapped[float]

    __table_args__ = (
        Index("ix_summaries_name_last_job_id", "name", "last", "job_id"),
        Index("ix_summaries_name_best_job_id", "name", "best", "job_id"),
    )


class View(Table):
    """A saved view: a name for an address of the dashboard."""

    __tablename__ = "views"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    path: Mapped[str]
    created_at: Mapped[datetime]


class Checkpoint(Table):
    """A checkpoint in the artifact store. The row is inserted after all files are stored.

    `size` is the size of its files in bytes, copied from `files` to sum it.
    """

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt_id: Mapped[str]
    epoch: Mapped[int]
    step: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    files: Mapped[dict[str, Any]]
    size: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_checkpoints_job_id_step", "job_id", "step"),)


class RemovedCheckpoint(Table):
    """A checkpoint that was removed by a rule of retention."""

    __tablename__ = "removed_checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    step: Mapped[int]
    rule: Mapped[str]
    removed_at: Mapped[datetime]


class Evaluation(Table):
    """An evaluation of a checkpoint on request. It stays when its checkpoint is removed.

    `request` has the choices of an `EvaluationSpec`, `result` an `Evaluated`. `losses` counts the workers it has lost.
    """

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    checkpoint_id: Mapped[str] = mapped_column(index=True)
    epoch: Mapped[int]
    step: Mapped[int]
    request: Mapped[dict[str, Any]]
    status: Mapped[Status] = mapped_column(index=True)
    losses: Mapped[int] = mapped_column(default=0)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Delivery(Table):
    """What the webhook is told of the end of a job or an experiment.

    `status` is waiting (for the end of the experiment `subject`), pending, delivered or failed. `answer` is the HTTP
    status of the last answer.
    """

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    event: Mapped[str]
    subject: Mapped[str]
    status: Mapped[str]
    body: Mapped[dict[str, Any] | None]
    tries: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    answer: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_deliveries_status_not_before", "status", "not_before"),)


class Idempotency(Table):
    """An idempotency key of a client. A repeated request gets the job or experiment with the id `answer`."""

    __tablename__ = "idempotency"

    client: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    answer: Mapped[str]
    created_at: Mapped[datetime]


class Lease(Table):
    """The holder of a role, and its last report.

    `beats` counts the renewals of all holders. `lease_s` is the number of seconds without one after which the lease
    expires; 0 once it is released. `renewed_at` is for readers, as the clock it comes from can be set.
    """

    __tablename__ = "leases"

    role: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    beats: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lease_s: Mapped[float] = mapped_column(Double, server_default=text("0"))
    renewed_at: Mapped[datetime]
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Counter(Table):
    """A counter. Its value never decreases."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Double)
