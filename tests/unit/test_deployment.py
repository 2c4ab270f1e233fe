"""docker-compose.yml, the images, Kubernetes and Grafana say the same as the code and as one another."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from service.telemetry import Telemetry
from tests.unit.test_alerts import metric_families

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS: list[dict[str, Any]] = [
    document for path in sorted(KUBERNETES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]
SETTINGS = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
OURS = {"secrets", "migrate", "api", "dispatcher", "ray-head", "ray-worker", "ray-worker-gpu", "bucket"}
BRINGS_ITS_OWN = {"AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_SHARED_CREDENTIALS_FILE"}


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [m for m in MANIFESTS if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that Kubernetes would start, by the name of its container."""
    for document in MANIFESTS:
        spec = document.get("spec", {})
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]["spec"]
        if document["kind"] == "RayCluster":
            yield "ray-head", spec["headGroupSpec"]["template"]["spec"]
            for group in spec["workerGroupSpecs"]:
                yield f"ray-worker-{group['groupName']}", group["template"]["spec"]


PODS = dict(pods())
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}
CONFIGURED: dict[str, str] = manifest("ConfigMap", "normlab-settings")["data"]


def default(value: object) -> str:
    """What compose takes where no variable of its environment is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def named_settings() -> Iterator[tuple[str, str]]:
    for service, described in SERVICES.items():
        yield from ((service, name) for name in described.get("environment", {}) if name.startswith(PREFIX))
    yield from (("kubernetes", name) for name in CONFIGURED)


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
    assert settings.database.endswith("@db/normlab")
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


def test_every_service_that_stays_has_a_health_check_and_a_limit_of_memory() -> None:
    passing = {name for name, service in SERVICES.items() if service["restart"] in ("no", "on-failure")}
    assert passing == {"secrets", "migrate", "bucket"}
    for name in SERVICES.keys() - passing:
        assert SERVICES[name]["restart"] == "unless-stopped"
        assert SERVICES[name]["healthcheck"]["test"], name
        assert SERVICES[name]["mem_limit"], name


def test_only_the_api_is_published_and_all_that_is_stays_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"api", "prometheus", "grafana"}
    for [port] in published.values():
        assert default(port).startswith("127.0.0.1:")
    assert {name for name in published if not SERVICES[name].get("profiles")} == {"api"}


def test_workers_are_given_no_secret_but_rays() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        mounted = {volume.split(":")[0] for volume in SERVICES[name]["volumes"]}
        assert mounted == {"ray", "kernels", "/tmp"}, name
        assert set(SERVICES[name]["environment"]) & (SETTINGS | BRINGS_ITS_OWN) == {"NORMLAB_RAY_ADDRESS"}
    for name in ("ray-head", "ray-worker-cpu", "ray-worker-gpu"):
        assert "envFrom" not in CONTAINERS[name]
        assert not any("secret" in volume for volume in PODS[name]["volumes"])


def test_secrets_are_only_read_and_every_file_that_is_named_is_made() -> None:
    made = set(re.findall(r'^make "?([\w$/]+)', (DOCKER / "secrets.sh").read_text(), re.MULTILINE))
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume.startswith(("secrets:", "ray:")) and name != "secrets":
                assert volume.endswith(":ro"), name
        for value in service.get("environment", {}).values():
            if str(value).startswith("/run/normlab/"):
                assert Path(str(value)).name in made, f"{name}: {value}"


def test_secrets_are_made_once_and_only_what_is_named_is_made_anew(tmp_path: Path) -> None:
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


def command_of(name: str) -> list[str]:
    found = SERVICES[name].get("command") or CONTAINERS[name]["command"]
    return [str(part) for part in found]


@pytest.mark.parametrize("name", ["migrate", "api", "dispatcher"])
def test_kubernetes_runs_what_compose_runs(name: str) -> None:
    container = CONTAINERS[name]
    dockerfile = (DOCKER / "service.Dockerfile").read_text()
    shipped = json.loads(re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[-1])
    assert container["command"] == SERVICES[name].get("command", shipped)
    assert container["image"] == SERVICES[name]["image"]
    assert container["envFrom"] == [{"configMapRef": {"name": "normlab-settings"}}]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    places = {volume.split(":")[1] for volume in SERVICES[name]["volumes"] if re.match(r"\w+:/", volume)}
    assert places <= mounted


def modules() -> Iterator[str]:
    commands = [command_of(name) for name in ("migrate", "api", "dispatcher") if name != "api"]
    commands += [
        SERVICES["dispatcher"]["healthcheck"]["test"],
        CONTAINERS["dispatcher"]["readinessProbe"]["exec"]["command"],
    ]
    commands += [shlex.split(line) for line in (DOCKER / "ray.sh").read_text().splitlines() if "python -m" in line]
    commands += [
        json.loads(match)
        for file in DOCKER.glob("*.Dockerfile")
        for match in re.findall("^CMD (.*)$", file.read_text(), re.M)
    ]
    for command in commands:
        if "-m" in command:
            yield command[command.index("-m") + 1]


@pytest.mark.parametrize("module", sorted(set(modules())))
def test_a_module_that_is_run_exists(module: str) -> None:
    assert find_spec(module) is not None


def test_the_settings_of_kubernetes_are_taken_by_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokens = tmp_path / "api_tokens"
    tokens.write_text("admin:0123456789")
    for name, value in CONFIGURED.items():
        if name != "NORMLAB_DATABASE_URL_FILE":
            monkeypatch.setenv(name, str(tokens) if name == "NORMLAB_API_TOKENS_FILE" else value)
    settings = Settings()
    assert settings.artifacts == str(settings.home / "artifacts")
    assert settings.ray_address == f"{manifest('RayCluster', 'normlab')['metadata']['name']}-head-svc:6379"


def test_the_secrets_of_kubernetes_are_those_that_pods_ask_for() -> None:
    script = (KUBERNETES / "secrets.sh").read_text()
    made = {
        name: set(re.findall(r"--from-literal=(\w+)=", text))
        for name, text in re.findall(r"make ([\w-]+)((?:\\\n|.)*)", script)
    }
    assert made == {
        "normlab": {"database_password", "api_token", "database_url", "api_tokens"},
        "normlab-ray": {"auth_token"},
    }
    for pod in PODS.values():
        for volume in pod["volumes"]:
            if "secret" in volume:
                wanted = {item["key"] for item in volume["secret"].get("items", [])}
                assert wanted <= made[volume["secret"]["secretName"]]
    assert manifest("RayCluster", "normlab")["spec"]["authOptions"] == {"mode": "token", "secretName": "normlab-ray"}
    for name, value in CONFIGURED.items():
        if name.endswith("_FILE"):
            assert Path(value).name in made["normlab"]


def test_no_secret_is_committed() -> None:
    assert not any(document["kind"] == "Secret" for document in MANIFESTS)


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_runs_as_somebody_without_rights(name: str) -> None:
    security = PODS[name]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == (999 if name == "db" else 1000)
    [container] = PODS[name]["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    if not name.startswith("ray"):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    if name != "ray-head":  # whose autoscaler asks Kubernetes for nodes
        assert PODS[name]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", sorted(PODS))
def test_every_volume_that_is_mounted_is_there_and_no_other(name: str) -> None:
    [container] = PODS[name]["containers"]
    claimed = [
        c["metadata"]["name"]
        for m in MANIFESTS
        if m["kind"] == "StatefulSet"
        for c in m["spec"]["volumeClaimTemplates"]
    ]
    there = {volume["name"] for volume in PODS[name]["volumes"]} | (set(claimed) if name == "db" else set())
    assert {mount["name"] for mount in container["volumeMounts"]} == there


def test_probes_ask_for_what_the_api_has() -> None:
    paths = json.loads((ROOT / "service" / "api" / "openapi.json").read_text())["paths"]
    probes = [probe for container in CONTAINERS.values() for name, probe in container.items() if name.endswith("Probe")]
    asked = {probe["httpGet"]["path"] for probe in probes if "httpGet" in probe}
    assert asked == {"/livez"}
    assert asked <= paths.keys()
    annotations = manifest("Deployment", "api")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in paths
    assert "127.0.0.1:8000/livez" in " ".join(SERVICES["api"]["healthcheck"]["test"])


def test_ports_are_the_same_everywhere() -> None:
    port = Settings.model_fields["port"].default
    assert CONTAINERS["api"]["ports"][0]["containerPort"] == port
    assert default(SERVICES["api"]["ports"][0]).endswith(f":{port}")
    assert manifest("NetworkPolicy", "api")["spec"]["ingress"][0]["ports"] == [{"port": port}]
    assert manifest("Deployment", "api")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(
        port
    )
    scraped = yaml.safe_load((DOCKER / "monitoring" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["dns_sd_configs"][0]["port"] == port
    assert scraped["job_name"] == "normlab", "the alerts select by it"
    assert SERVICES["dispatcher"]["environment"]["NORMLAB_RAY_ADDRESS"].endswith(":6379")


def test_services_and_policies_select_pods_that_exist() -> None:
    components = {"api", "db", "dispatcher", "migrate", "ray"}
    for document in MANIFESTS:
        for component in re.findall(r"app.kubernetes.io/component': '(\w+)'", str(document)):
            assert component in components
        for values in re.findall(r"'values': \[(.*?)\]", str(document)):
            assert set(re.findall(r"\w+", values)) <= components


def ray_flags(role: str) -> dict[str, str | None]:
    """What docker/ray.sh gives `ray start` in a role, besides addresses."""
    script = (DOCKER / "ray.sh").read_text()
    common = re.search(r"^set -- (.*)$", script, re.MULTILINE)
    own = re.search(rf"^  {role}\).*?ray start (.*?) \"\$@\"", script, re.MULTILINE | re.DOTALL)
    assert common is not None
    assert own is not None
    words = [word for word in shlex.split(f"{own[1]} {common[1]}") if word.startswith("--")]
    flags = dict([*word.removeprefix("--").split("=", 1), None][:2] for word in words)
    return {name: value for name, value in flags.items() if name not in ("head", "block", "port", "address")}


def test_kuberay_starts_ray_as_the_script_does() -> None:
    cluster = manifest("RayCluster", "normlab")["spec"]
    head = cluster["headGroupSpec"]["rayStartParams"]
    expected = ray_flags("head") | {"disable-usage-stats": "true", "object-store-memory": "500000000"}
    assert head == expected
    for group in cluster["workerGroupSpecs"]:
        assert group["rayStartParams"] == {"disable-usage-stats": "true", "object-store-memory": "500000000"}
    exported = dict(re.findall(r"export (RAY_\w+)=(\S+)", (DOCKER / "ray.sh").read_text()))
    given = {entry["name"]: entry["value"] for entry in CONTAINERS["ray-head"]["env"]}
    assert given == {name: value for name, value in exported.items() if name != "RAY_AUTH_MODE"}
    locked = re.search(r"^ray==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert cluster["rayVersion"] == locked[1]


def test_ray_keeps_its_objects_within_shared_memory() -> None:
    sizes = {
        name: default(SERVICES[name]["shm_size"]) for name in ("dispatcher", "ray-head", "ray-worker", "ray-worker-gpu")
    }
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


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has kustomize in it")
@pytest.mark.parametrize("s3", [False, True])
def test_kustomize_takes_the_manifests(tmp_path: Path, s3: bool) -> None:
    folder = Path(shutil.copytree(KUBERNETES, tmp_path / "kubernetes"))
    kustomization = folder / "kustomization.yaml"
    if s3:
        assert "# components: [s3]" in kustomization.read_text()
        kustomization.write_text(kustomization.read_text().replace("# components: [s3]", "components: [s3]"))
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert all(document["metadata"].get("namespace", "normlab") == "normlab" for document in built)
    assert ("PersistentVolumeClaim" in {document["kind"] for document in built}) is not s3
    [configured] = [document["data"] for document in built if document["kind"] == "ConfigMap"]
    assert configured["NORMLAB_ARTIFACTS_URL"] == ("s3://normlab" if s3 else "/var/lib/normlab/artifacts")


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


def test_images_install_what_the_lock_has() -> None:
    for dockerfile in DOCKER.glob("*.Dockerfile"):
        text = dockerfile.read_text()
        assert "--constraint requirements.lock" in text
        assert text.index("COPY pyproject.toml") < text.index("COPY service")
        assert text.rstrip().splitlines()[-2] == "USER normlab"
