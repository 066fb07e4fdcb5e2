"""The rule files, their unit tests and the servers' own tools, as the tests of `alerts/` read them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training_exporter.stack import binaries

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "alerts"
RULE_FILES = sorted((ALERTS / "rules").glob("*.yml"))
RECORDING_FILES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
UNIT_TEST_FILES = sorted((ALERTS / "tests").glob("*.yml"))
ALERTMANAGER_YML = ALERTS / "alertmanager.yml"
PROMETHEUS_YML = ROOT / "prometheus" / "prometheus.yml"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Alert:
    """One alerting rule."""

    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    file: Path

    @property
    def severity(self) -> str:
        return self.labels["severity"]

    def __str__(self) -> str:
        return f"{self.name}-{self.labels.get('severity')}"


def _rules(files: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in files:
        for group in load(file)["groups"]:
            for rule in group["rules"]:
                yield file, rule


ALERT_RULES = [
    Alert(rule["alert"], str(rule["expr"]), rule.get("labels", {}), rule.get("annotations", {}), file)
    for file, rule in _rules(RULE_FILES)
    if "alert" in rule
]
RECORDINGS = {
    rule["record"]: str(rule["expr"]) for _, rule in _rules([*RULE_FILES, *RECORDING_FILES]) if "record" in rule
}


@dataclass(frozen=True)
class Expectation:
    """What a unit test says about an alert at one moment: the severities that fire, none of them where it is silent."""

    alert: str
    severities: frozenset[str]
    external_labels: dict[str, str]
    firing: tuple[dict[str, Any], ...]


EXPECTATIONS = [
    Expectation(
        check["alertname"],
        frozenset(alert["exp_labels"]["severity"] for alert in check.get("exp_alerts") or ()),
        test.get("external_labels", {}),
        tuple(check.get("exp_alerts") or ()),
    )
    for file in UNIT_TEST_FILES
    for test in load(file)["tests"]
    for check in test.get("alert_rule_test", ())
]


def tool(program: binaries.Program, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool or amtool; its output comes back as text, errors in it are the caller's."""
    path = binaries.require([program])[program.name]
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120, encoding="utf-8"
    )


def render(template: str, data: dict[str, Any], folder: Path, *, html: bool = False) -> str:
    """What Alertmanager's own engine makes of `template` and `data` (its template.Data as JSON has it)."""
    file = folder / "data.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    result = tool(
        binaries.AMTOOL,
        "template",
        "render",
        f"--template.glob={ALERTS}/templates/*.tmpl",
        f"--template.type={'html' if html else 'text'}",
        f"--template.data={file}",
        f'--template.text={{{{ template "{template}" . }}}}',
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
