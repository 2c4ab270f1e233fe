"""`normlab storage` shows what the checkpoints take."""

from service.cli.exits import Exit
from service.cli.tables import size_text
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, Json, StandIn

EXPERIMENTS: list[Json] = [
    {"id": "exp_1", "title": "study", "jobs": 12, "checkpoints": 36, "bytes": 3_600_000_000},
    {"id": None, "title": None, "jobs": 1, "checkpoints": 1, "bytes": 950},
]
JOBS: list[Json] = [
    {
        "id": "job_1",
        "title": "group (8)",
        "experiment": "exp_1",
        "status": "succeeded",
        "checkpoints": 3,
        "bytes": 300_000_000,
    },
]
FOUND: Json = {
    "checkpoints": 37,
    "bytes": 3_600_000_950,
    "free_bytes": 20 * 10**9,
    "experiments": EXPERIMENTS,
    "jobs": JOBS,
}


def test_it_lists_experiments_and_jobs(run: Run, service: StandIn) -> None:
    service.on("GET", "/v1/storage", Answer(FOUND))
    lines = [" ".join(line.split()) for line in run("--url", service.url, "storage").out.splitlines()]
    assert lines == [
        "checkpoints 37, 3.6 GB",
        "free 20.0 GB",
        "",
        "EXPERIMENT JOBS CHECKPOINTS SIZE TITLE",
        "exp_1 12 36 3.6 GB study",
        "– 1 1 950 B jobs without an experiment",
        "",
        "JOB STATUS CHECKPOINTS SIZE TITLE",
        "job_1 succeeded 3 300.0 MB group (8)",
    ]


def test_as_json_it_is_what_the_api_says(run: Run, service: StandIn) -> None:
    service.on("GET", "/v1/storage", Answer(FOUND))
    assert run("--url", service.url, "storage", "--json").json == FOUND


def test_the_jobs_of_one_experiment_are_listed_alone(run: Run, service: StandIn) -> None:
    nothing = {"checkpoints": 0, "bytes": 0, "free_bytes": None, "experiments": EXPERIMENTS, "jobs": JOBS}
    service.on("GET", "/v1/storage", Answer(nothing))
    ended = run("--url", service.url, "storage", "--experiment", "exp_1")
    assert ended.code == Exit.OK
    assert "EXPERIMENT" not in ended.out
    assert "free" not in ended.out
    assert "job_1" in ended.out


def test_sizes_have_the_unit_that_suits_them() -> None:
    sizes = (None, 0, 999, 1000, 1_100_000, 999_999, 10**9, 10**16)
    texts = ["–", "0 B", "999 B", "1.0 kB", "1.1 MB", "1000.0 kB", "1.0 GB", "10000.0 TB"]
    assert [size_text(size) for size in sizes] == texts
