"""What is deployed agrees with the server: settings, metrics, alerts and the runbook."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from server.metrics import Metrics
from server.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TEXTS = [
    *(p for p in DEPLOY.iterdir() if p.suffix in {".md", ".yaml"}),
    DEPLOY / "Dockerfile",
    DEPLOY / "systemd" / "selfalign-server.service",
    ROOT / "README.md",
]


def alerts() -> list[dict[str, str]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exported_metrics() -> set[str]:
    """Names as Prometheus sees them, histogram series included."""
    names = set(re.findall(r"^# TYPE (\S+)", Metrics().render().decode(), flags=re.MULTILINE))
    return names | {f"{name}_{end}" for name in names for end in ("bucket", "count", "sum")}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_setting_named_is_a_setting(path: Path) -> None:
    known = {f"SELFALIGN_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"SELFALIGN_[A-Z_]+[A-Z]", path.read_text()))
    assert named - known == set()


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_watches_metrics_that_exist(rule: dict[str, str]) -> None:
    named = set(re.findall(r"selfalign_\w+", rule["expr"]))
    assert named - exported_metrics() == set()
    assert named or 'job="selfalign"' in rule["expr"]


def test_the_runbook_answers_every_alert() -> None:
    headings = re.findall(r"^### (\w+)$", (DEPLOY / "runbook.md").read_text(), flags=re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts())


def test_the_container_carries_the_current_version() -> None:
    for name in ("Dockerfile", "compose.yaml"):
        assert f"selfalign-server:{VERSION}" in (DEPLOY / name).read_text()


def test_compose_publishes_on_the_loopback_only() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
