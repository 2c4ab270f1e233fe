"""The compose files, the images, Prometheus and Grafana agree with the code and with their documentation."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api.prometheus import Telemetry
from service.settings import PREFIX, Settings
from tests.unit.test_alerts import metric_families

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
OURS = {"secrets", "migrate", "api", "dispatcher", "ray-head", "ray-worker", "ray-worker-gpu", "bucket"}
BRINGS_ITS_OWN = {"AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS_FILE"}


def default(value: object) -> str:
    """Replace variables by their defaults, as compose does if none is set in its environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def named_settings() -> Iterator[tuple[str, str]]:
    for service, described in SERVICES.items():
        yield from ((service, name) for name in described.get("environment", {}) if name.startswith(PREFIX))


def copied() -> Iterator[tuple[str, str]]:
    """Yield what each Dockerfile copies from the working tree."""
    for path in sorted(DOCKER.glob("*.Dockerfile")):
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE):
            yield from ((path.name, source) for source in sources.split())


@pytest.mark.parametrize(("dockerfile", "source"), list(copied()))
def test_what_an_image_copies_is_sent_to_its_build(dockerfile: str, source: str) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert any(fnmatch(source, pattern) for pattern in sent), f".dockerignore keeps {source} from {dockerfile}"


@pytest.mark.parametrize(("where", "name"), list(named_settings()))
def test_a_setting_that_is_given_exists(where: str, name: str) -> None:
    assert name.removesuffix("_FILE") in SETTINGS


@pytest.mark.parametrize("service", ["api", "dispatcher", "migrate"])
def test_compose_gives_settings_that_the_code_takes(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in SERVICES[service]["environment"].items():
        if name.endswith("_FILE") and name.startswith(PREFIX):
            secret = tmp_path / Path(value).name
            secret.write_text("admin:0123456789" if "tokens" in value else "postgresql://normlab:secret@db/normlab")
            monkeypatch.setenv(name, str(secret))
        elif name.startswith(PREFIX):
            monkeypatch.setenv(name, default(value))
    settings = Settings()
    assert settings.artifacts == "/var/lib/normlab/artifacts"
    assert str(settings.database).endswith("@db/normlab")
    assert (settings.host, settings.port) == ("0.0.0.0" if service == "api" else "127.0.0.1", 8000)


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_have_no_right_to_spare(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["logging"]["options"]["max-size"]


def test_every_running_service_has_a_health_check_and_a_memory_limit() -> None:
    passing = {name for name, service in SERVICES.items() if service["restart"] in ("no", "on-failure")}
    assert passing == {"secrets", "migrate", "bucket"}
    for name in SERVICES.keys() - passing:
        assert SERVICES[name]["restart"] == "unless-stopped"
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["mem_limit"], name


def test_the_limits_of_a_gpu_worker_suffice_for_eight_gpus() -> None:
    worker = SERVICES["ray-worker-gpu"]
    assert default(worker["mem_limit"]) == "128g"
    assert default(worker["shm_size"]) == "8gb"
    assert [default(place) for place in worker["tmpfs"]] == ["/tmp:exec,mode=1777,size=16g"]


def test_only_the_api_is_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"api", "prometheus", "grafana"}
    for [port] in published.values():
        assert default(port).startswith("127.0.0.1:")
    assert {name for name in published if not SERVICES[name].get("profiles")} == {"api"}


def test_workers_are_given_no_secret_but_rays() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        mounted = {volume.split(":")[0] for volume in SERVICES[name]["volumes"]}
        assert mounted == {"ray", "kernels"}, name
        assert set(SERVICES[name]["environment"]) & (SETTINGS | BRINGS_ITS_OWN) == {"NORMLAB_RAY_ADDRESS"}


def test_a_container_shares_its_temporary_files_with_no_other() -> None:
    # podman-compose shares one anonymous volume between all containers of a service, which breaks Ray.
    for name in OURS | {"db", "prometheus", "grafana", "s3"}:
        assert any(place.split(":")[0] == "/tmp" for place in SERVICES[name]["tmpfs"]), name
        assert all(":" in volume for volume in SERVICES[name].get("volumes", [])), name


def test_secrets_are_only_read_and_every_file_that_is_named_is_made() -> None:
    made = set(re.findall(r'^make "?([\w$/]+)', (DOCKER / "secrets.sh").read_text(), re.MULTILINE))
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume.startswith(("secrets:", "ray:")) and name != "secrets":
                assert volume.endswith(":ro"), name
        for value in service.get("environment", {}).values():
            if str(value).startswith("/run/normlab/"):
                assert Path(str(value)).name in made, f"{name}: {value}"


def test_secrets_are_generated_once_and_only_named_ones_are_replaced(tmp_path: Path) -> None:
    own, ray = tmp_path / "own", tmp_path / "ray"
    own.mkdir()
    ray.mkdir()
    environment = {"NORMLAB_SECRETS": str(own), "NORMLAB_RAY_SECRETS": str(ray), "PATH": "/usr/local/bin:/usr/bin:/bin"}

    def run(*names: str) -> dict[str, str]:
        subprocess.run(["sh", DOCKER / "secrets.sh", *names], env=environment, check=True)
        return {path.name: path.read_text() for path in (*own.iterdir(), *ray.iterdir())}

    first = run()
    assert all(len(secret) >= 20 for secret in first.values())
    assert run() == first
    (own / "api_tokens").write_text(f"{first['api_tokens']},guest:0123456789:read")
    anew = run("api")
    assert anew["api_tokens"] == f"admin:{anew['api_token']},guest:0123456789:read"
    assert first["api_token"] != anew["api_token"]
    again = run("ray", "database", "s3", "grafana")
    assert again.keys() == first.keys()
    assert {name for name in again if again[name] == anew[name]} == {"api_token", "api_tokens"}
    assert again["database_url"] == f"postgresql://normlab:{again['database_password']}@db/normlab"
    private = {path.name for path in (*own.iterdir(), *ray.iterdir()) if path.stat().st_mode & 0o077 == 0}
    assert private == {"api_token", "api_tokens", "database_url", "s3_credentials", "token"}
    refused = subprocess.run(["sh", DOCKER / "secrets.sh", "all"], env=environment, capture_output=True, check=False)
    assert (refused.returncode, refused.stderr.decode()) == (2, "give any of: api, ray, database, s3, grafana\n")


def test_ray_keeps_its_objects_within_shared_memory() -> None:
    sizes = {name: default(SERVICES[name]["shm_size"]) for name in ("dispatcher", "ray-head", "ray-worker")}
    assert set(sizes.values()) == {"1gb"}
    assert int(default(SERVICES["ray-worker"]["environment"]["RAY_OBJECT_STORE_BYTES"])) < 1 << 30


def test_the_dashboard_of_grafana_shows_metrics_that_exist() -> None:
    board = json.loads((DOCKER / "monitoring" / "dashboards" / "normlab.json").read_text())
    source = yaml.safe_load((DOCKER / "monitoring" / "provisioning" / "datasources" / "prometheus.yml").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    families = metric_families()
    shown = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == source["datasources"][0]["uid"]
        for target in panel["targets"]:
            names = set(re.findall(r"\bnormlab_[a-z_]+", target["expr"]))
            shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in names}
            assert names or 'up{job="normlab"}' in target["expr"]
    assert shown == families.keys(), "every metric is on the dashboard"
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(taken)) == len(taken)
    assert isinstance(Telemetry("0", None).render(), bytes)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: it comes with Prometheus")
def test_prometheus_takes_its_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=DOCKER / "monitoring",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("override", ["replicas.yml", "hosts.yml"])
def test_an_override_is_about_services_that_exist_and_loosens_nothing(override: str) -> None:
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!reset", lambda _loader, _node: [])
    services = yaml.load((DOCKER / override).read_text(), Loader=loader)["services"]
    for name, service in services.items():
        assert name in SERVICES or service["cap_drop"] == ["ALL"]
        for port in service.get("ports", []):
            assert default(port).startswith("127.0.0.1:")
    if override == "replicas.yml":
        assert services["api"]["ports"] == []
        assert services["proxy"]["command"][-1] == f"api:{Settings.model_fields['port'].default}"


def test_every_variable_of_compose_is_explained() -> None:
    readme = (DOCKER / "README.md").read_text()
    files = (ROOT / "docker-compose.yml", DOCKER / "replicas.yml", DOCKER / "hosts.yml")
    variables = {name for file in files for name in re.findall(r"\$\{(\w+):", file.read_text())}
    assert {name for name in variables if f"`{name}`" not in readme and f"{name}=" not in readme} == set()


def test_every_file_that_the_deployment_readme_names_exists() -> None:
    readme = (DOCKER / "README.md").read_text()
    for name in re.findall(r"(?:docker/|`|\.\./)([\w./-]+\.(?:yml|yaml|sh|py|Dockerfile))", readme):
        assert [
            path
            for path in (DOCKER / name, ROOT / name, KUBERNETES / name, DOCKER / "monitoring" / name)
            if path.is_file()
        ]
    for service in re.findall(r"docker compose (?:exec|run --rm|restart|stop)(?: -T)? ([a-z][\w-]*)", readme):
        assert service in SERVICES


def test_images_install_what_the_lock_has() -> None:
    [torch] = re.findall(r"torch==[\d.]+", (DOCKER / "worker.Dockerfile").read_text())
    assert torch in (ROOT / "requirements.lock").read_text().splitlines()
    for dockerfile in DOCKER.glob("*.Dockerfile"):
        text = dockerfile.read_text()
        assert "--constraint requirements.lock" in text
        assert text.index("COPY pyproject.toml") < text.index("COPY service")
        assert text.rstrip().splitlines()[-2] == "USER normlab"
