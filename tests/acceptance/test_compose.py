"""docker-compose.yml: the images build, the services start, and jobs survive the end of each container."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from service.client.errors import ApiError
from tests.acceptance.containers import BUILD_S, ROOT, Stack, engine, until

pytestmark = [pytest.mark.containers]

EPOCHS = 16
IMAGES = Path(os.environ.get("NORMLAB_DATA_DIR", ""), "cifar-10-batches-py")
STUDY: dict[str, Any] = {
    "model": "resnet20",
    "precision": "float32",
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 16,
    "epochs": EPOCHS,
    "dataset": {
        "name": "cifar10" if "NORMLAB_DATA_DIR" in os.environ and IMAGES.is_dir() else "synthetic",
        "train_limit": 320,
        "test_limit": 100,
    },
    "checkpoint": {"every_epochs": 1, "every_s": 2},
}
LONG_RUNNING = ["api", "dispatcher", "db", "ray-head", "ray-worker"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The whole deployment, built from the working tree."""
    found = engine()
    if found is None:
        # This test was requested explicitly, so skipping it would hide that nothing was tested.
        pytest.fail(
            "neither a running Docker engine with `docker compose` nor podman with podman-compose was found",
            pytrace=False,
        )
    stack = Stack(*found)
    try:
        stack.compose("build", timeout_s=BUILD_S)
        stack.up()
        yield stack
    except AssertionError:
        print(stack.logs())
        raise
    finally:
        stack.down("-v")


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> str:
    """The sha256 of the final weights of an undisturbed STUDY."""
    with stack.client() as client:
        job = client.submit(STUDY)["id"]
        assert client.wait(job)["status"] == "succeeded"
        return weights(client, job)


def weights(client: Client, job: str) -> str:
    files = {file["name"]: file for file in client.checkpoint((job, "latest"))["files"]}
    digest: str = files["model.safetensors"]["sha256"]
    return digest


def step(client: Client, job: str) -> int:
    return int((client.job(job)["progress"] or {}).get("step", 0))


def reaches(client: Client, job: str, target: int) -> None:
    until(lambda: step(client, job) >= target, f"{job} to reach step {target}")


def test_processes_have_no_rights_to_spare_and_only_the_api_is_published(stack: Stack) -> None:
    for service in [*LONG_RUNNING, "migrate", "secrets"]:
        host = stack.inspect(service)["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert any("no-new-privileges" in option for option in host["SecurityOpt"]), service
        published = {port: bound for port, bound in (host["PortBindings"] or {}).items() if bound}
        if service == "api":
            [[bound]] = published.values()
            assert (bound["HostIp"], bound["HostPort"]) == ("127.0.0.1", str(stack.port))
        else:
            assert not published, service
    for service in sorted({*LONG_RUNNING} - {"db"}):
        told = stack.compose("exec", "-T", service, "sh", "-c", "id -u; grep CapEff /proc/self/status").decode()
        assert told.split() == ["1000", "CapEff:", "0" * 16], service


def test_a_worker_has_no_secret_but_rays(stack: Stack) -> None:
    for service in ("ray-head", "ray-worker"):
        assert stack.compose("exec", "-T", service, "ls", "/run/normlab", "/run/ray").decode().split() == [
            "/run/normlab:",
            "/run/ray:",
            "token",
        ]
        environment = stack.compose("exec", "-T", service, "env").decode()
        assert "NORMLAB_DATABASE" not in environment
        assert "AWS_" not in environment


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_health_check_says_that_a_healthy_service_is(stack: Stack, service: str) -> None:
    health = stack.inspect(service)["Config"]["Healthcheck"]["Test"]
    command = health[1:] if health[0] == "CMD" else ["sh", "-c", " ".join(health[1:])]
    stack.compose("exec", "-T", service, *command)


def test_an_experiment_from_the_host_has_results(client: Client) -> None:
    grid = {"normalization": [{"type": "batch"}, {"type": "group", "num_groups": 8}], "seed": [0, 1]}
    base = STUDY | {"epochs": 2, "batch_size": 8}
    del base["normalization"]
    experiment = client.experiments.submit({"name": "two norms", "base": base, "grid": grid})
    for job in client.jobs(experiment=experiment["id"]):
        assert client.wait(job["id"])["status"] == "succeeded"
    cells = client.experiments.results(experiment["id"])["cells"]
    assert [cell["n"] for cell in cells] == [2, 2]
    assert all(0 < cell["mean"] < 1 for cell in cells)


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_container_is_stopped_and_killed_under_a_running_job_and_nothing_is_lost_or_done_twice(
    stack: Stack, client: Client, undisturbed: str, service: str, tmp_path: Path
) -> None:
    job = client.submit(STUDY)["id"]
    reaches(client, job, 15)
    stack.stop(service)
    if service not in ("api", "db"):
        # Reads and submissions still work.
        later = client.submit(STUDY | {"epochs": 1})["id"]
        assert client.job(later)["status"] == "queued"
        assert client.job(job)["status"] in ("running", "starting", "queued")
        assert client.metrics(job) is not None
    stack.start(service)
    stack.wait_ready()
    reaches(client, job, step(client, job) + 10)
    stack.kill(service)
    stack.wait_ready()
    ended = client.wait(job)

    assert ended["status"] == "succeeded", ended["error"]
    assert ended["progress"]["step"] == ended["progress"]["total_steps"]
    assert [attempt["outcome"] for attempt in ended["attempts"]][-1] == "succeeded"
    # A worker that is not polled for the length of its lease cancels its attempt.
    assert {attempt["outcome"] for attempt in ended["attempts"][:-1]} <= {"lost", "cancelled"}
    assert [row["epoch"] for row in client.metrics(job, kind="eval")] == list(range(1, EPOCHS + 1))
    rows = Counter((row["kind"], row["step"]) for row in client.metrics(job))
    assert set(rows.values()) == {1}
    assert weights(client, job) == undisturbed
    downloaded = client.download((job, "latest"), "model.safetensors", tmp_path / "weights")
    assert hashlib.sha256(downloaded.read_bytes()).hexdigest() == undisturbed
    if service not in ("api", "db"):
        assert client.wait(later)["status"] == "succeeded"


@pytest.mark.parametrize("service", ["dispatcher", "ray-head", "ray-worker"])
def test_a_node_of_ray_that_leaves_because_an_agent_died_comes_back(
    stack: Stack, client: Client, undisturbed: str, service: str
) -> None:
    job = client.submit(STUDY)["id"]
    reaches(client, job, 15)
    (container,) = stack.containers(service)
    shell = "for p in /proc/[0-9]*; do grep -qs ^ray::DashboardAgent $p/cmdline && kill -9 ${p#/proc/}; done; true"
    stack.engine("exec", container, "sh", "-c", shell)
    ended = client.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert weights(client, job) == undisturbed


def test_a_node_of_ray_whose_ray_start_hangs_comes_back(stack: Stack, client: Client, undisturbed: str) -> None:
    job = client.submit(STUDY)["id"]
    reaches(client, job, 15)
    (container,) = stack.containers("ray-worker")
    start = "grep -qszx /opt/venv/bin/ray $p/cmdline && kill -STOP ${p#/proc/}"
    raylet = "grep -qsx raylet $p/comm && kill -KILL ${p#/proc/}"
    stack.engine("exec", container, "sh", "-c", f"for p in /proc/[0-9]*; do {start}; {raylet}; done; true")
    ended = client.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert weights(client, job) == undisturbed


def test_three_workers_train_three_jobs_at_once(stack: Stack, client: Client) -> None:
    stack.up("--scale", "ray-worker=3", "--no-recreate")
    assert len(stack.containers("ray-worker")) == 3
    jobs = [client.submit(STUDY | {"epochs": 200, "seed": seed})["id"] for seed in range(3)]

    def nodes() -> set[str]:
        return {worker["node"] for worker in client.cluster()["workers"] if worker["job"] in jobs}

    until(lambda: len(nodes()) == 3, "three jobs on three nodes")
    for job in jobs:
        reaches(client, job, 1)
        client.cancel(job)
    assert [client.wait(job)["status"] for job in jobs] == ["cancelled"] * 3


def test_the_secrets_and_the_jobs_survive_a_restart_of_everything(stack: Stack, client: Client) -> None:
    job = client.submit(STUDY | {"epochs": 1})["id"]
    client.wait(job)
    before = {name: stack.secret(name) for name in ("api_tokens", "database_password", "s3_secret_key")}
    stack.down()
    stack.up()
    assert {name: stack.secret(name) for name in before} == before
    assert client.job(job)["status"] == "succeeded"


def test_a_backup_brings_back_what_was_deleted(stack: Stack, client: Client, tmp_path: Path) -> None:
    job = client.submit(STUDY | {"epochs": 1})["id"]
    client.wait(job)
    kept = weights(client, job)
    # The commands of docker/README.md.
    database = stack.compose("exec", "-T", "db", "pg_dump", "-U", "normlab", "-Fc", "normlab")
    files = stack.compose("exec", "-T", "dispatcher", "tar", "-C", "/var/lib/normlab/artifacts", "-c", ".")
    client.delete(job)
    with pytest.raises(ApiError):
        client.job(job)

    stack.stop("api")
    restore = ("pg_restore", "-U", "normlab", "-d", "normlab", "--clean", "--if-exists", "--single-transaction")
    stack.compose("exec", "-T", "dispatcher", "tar", "-C", "/var/lib/normlab/artifacts", "-x", given=files)
    stack.stop("dispatcher")
    stack.compose("exec", "-T", "db", *restore, given=database)
    stack.start("api")
    stack.start("dispatcher")
    stack.wait_ready()
    assert client.job(job)["status"] == "succeeded"
    downloaded = client.download((job, "latest"), "model.safetensors", tmp_path / "weights")
    assert hashlib.sha256(downloaded.read_bytes()).hexdigest() == kept


def test_every_secret_is_made_anew_and_the_old_token_opens_nothing(stack: Stack) -> None:
    old = stack.secret("api_token")
    stack.compose("run", "--rm", "-T", "secrets", "api", "ray", "database")
    # The command of docker/README.md.
    tell = "ALTER ROLE normlab PASSWORD '$(cat /run/normlab/database_password)'"
    stack.compose("exec", "-T", "db", "sh", "-c", f'psql -qU normlab -c "{tell}"')
    for service in ("api", "ray-head", "ray-worker", "dispatcher"):
        stack.stop(service)
    for service in ("api", "ray-head", "ray-worker", "dispatcher"):
        stack.start(service)
    stack.wait_ready()
    with stack.client(old) as stranger, pytest.raises(ApiError, match="token"):
        stranger.cluster()
    with stack.client() as client:
        assert stack.secret("api_token") != old
        assert client.wait(client.submit(STUDY | {"epochs": 1})["id"])["status"] == "succeeded"


def test_the_image_of_the_api_is_small_and_has_no_torch(stack: Stack) -> None:
    layers = stack.engine("history", "--format", "{{.Size}} {{.CreatedBy}}", "normlab-service")
    assert "/opt/venv" in layers
    told = stack.compose("exec", "-T", "api", "sh", "-c", "du -sm /opt/venv /opt/normlab").decode()
    assert sum(int(line.split()[0]) for line in told.splitlines()) < 320, told
    without = "import importlib.util as u; print([m for m in ('torch', 'ray', 'pip') if u.find_spec(m)])"
    assert stack.compose("exec", "-T", "api", "python", "-c", without).decode().strip() == "[]"


def test_every_profile_is_a_file_that_compose_accepts(stack: Stack) -> None:
    for profile in ("gpu", "monitoring", "s3"):
        assert stack.compose("--profile", profile, "config").decode().count("image:") > 5
    assert (ROOT / "docker" / "monitoring" / "prometheus.yml").is_file()
