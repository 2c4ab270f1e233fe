"""The alerts use metrics that exist, describe what to do, and fire under the right conditions."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api.prometheus import Stored, Telemetry
from service.artifacts import LocalArtifacts
from service.cluster_report import ClusterReport, RayReport
from service.store import counters

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docker" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
REPORT = ClusterReport(ray=RayReport(status="connected"))


def metric_families() -> dict[str, str]:
    """Return the names of all metrics with their help texts, for a service that has all values."""
    telemetry = Telemetry("0.0.0", LocalArtifacts(Path("/")))
    telemetry._whole.state = Stored({}, 0, 0, REPORT, 0, {}, ([("+Inf", 0)], 0), 0)
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.documentation
        for metric in telemetry.registry.collect()
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_about_metrics_that_exist(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\bnormlab_[a-z_0-9]+", rule["expr"]))
    assert named or "up{" in rule["expr"]
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= metric_families().keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_summary_and_a_description_of_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 60


def test_alerts_select_by_labels_that_exist() -> None:
    selected = dict(re.findall(r'(\w+)="([a-z]+)"', " ".join(rule["expr"] for rule in RULES)))
    assert selected.pop("job") == "normlab"
    assert selected == {"status": "queued", "state": "free", "outcome": "lost"}


def test_every_alert_is_tested() -> None:
    tested = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    firing = {rule["alertname"] for test in tested for rule in test["alert_rule_test"] if rule.get("exp_alerts")}
    silent = {rule["alertname"] for test in tested for rule in test["alert_rule_test"] if not rule.get("exp_alerts")}
    assert firing == silent == {rule["alert"] for rule in RULES}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: it comes with Prometheus (Debian: apt install prometheus)"
)
def test_the_alerts_fire_when_they_should() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manual_describes_every_metric_and_no_other() -> None:
    section = (ROOT / "service/README.md").read_text().partition("## Metrics and alerts")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(normlab_\w+)` \| (.*?)(?: \(`.*)? \|$", section, re.MULTILINE))
    assert rows == metric_families()


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, help_ in metric_families().items():
        assert re.fullmatch(r"normlab_[a-z_]+", name)
        assert help_, name
        assert not re.search("_(ms|milliseconds|mb|percent)$", name), "base units: seconds, bytes, ratios"


def test_the_buckets_of_the_latency_are_sorted_and_unbounded() -> None:
    assert list(counters.LATENCY_BOUNDS_S) == sorted(set(counters.LATENCY_BOUNDS_S))
