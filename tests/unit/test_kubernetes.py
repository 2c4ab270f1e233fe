"""The Kubernetes manifests agree with docker-compose.yml, docker/ray.sh and the code."""

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

from service.settings import Settings
from tests.unit.test_deployment import DOCKER, KUBERNETES, ROOT, SERVICES, SETTINGS, default

MANIFESTS: list[dict[str, Any]] = [
    document for path in sorted(KUBERNETES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())
]


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [m for m in MANIFESTS if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every pod template, by the name of its container."""
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


def test_no_variable_of_a_service_of_kubernetes_passes_for_a_setting() -> None:
    for name in ("api", "dispatcher", "migrate"):
        assert PODS[name]["enableServiceLinks"] is False


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
    if name != "ray-head":  # its autoscaler requests nodes from Kubernetes
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
    assert scraped["job_name"] == "normlab", "the alerts select this job"
    assert SERVICES["dispatcher"]["environment"]["NORMLAB_RAY_ADDRESS"].endswith(":6379")


def test_services_and_policies_select_pods_that_exist() -> None:
    components = {"api", "db", "dispatcher", "migrate", "ray"}
    for document in MANIFESTS:
        for component in re.findall(r"app.kubernetes.io/component': '(\w+)'", str(document)):
            assert component in components
        for values in re.findall(r"'values': \[(.*?)\]", str(document)):
            assert set(re.findall(r"\w+", values)) <= components


def ray_flags(role: str) -> dict[str, str | None]:
    """Return the arguments of `ray start` in docker/ray.sh for a role, without addresses."""
    script = (DOCKER / "ray.sh").read_text()
    common = re.search(r"^set -- (.*)$", script, re.MULTILINE)
    own = re.search(rf"^  {role}\).*?ray start (.*?) \"\$@\"", script, re.MULTILINE | re.DOTALL)
    assert common is not None
    assert own is not None
    words = [word for word in shlex.split(f"{own[1]} {common[1]}") if word.startswith("--")]
    flags = [word.removeprefix("--").partition("=") for word in words]
    return {
        name: value if equals else None
        for name, equals, value in flags
        if name not in ("head", "block", "port", "address")
    }


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


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which includes kustomize")
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


def test_every_setting_that_is_given_exists() -> None:
    assert {name.removesuffix("_FILE") for name in CONFIGURED} <= SETTINGS


def test_the_nodes_of_ray_are_given_no_secret_but_its_token() -> None:
    for name in ("ray-head", "ray-worker-cpu", "ray-worker-gpu"):
        assert "envFrom" not in CONTAINERS[name]
        assert not any("secret" in volume for volume in PODS[name]["volumes"])
