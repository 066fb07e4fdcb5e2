"""What the rest of the repository says: metric names, alert thresholds and words, where the runbooks are.

The dashboards copy none of it, so a renamed metric or a moved threshold changes the JSON or stops the generator.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from training_exporter.families import MONITOR_FAMILIES, RUN_FAMILIES
from training_exporter.gpu import GPU_FAMILIES
from training_exporter.sinks.collectors import COLLECTOR_FAMILIES

ROOT = Path(__file__).resolve().parents[2]
ALERT_RULES = ROOT / "alerts" / "rules"
RECORDING_RULES = ROOT / "prometheus" / "rules"
PROMETHEUS_CONFIG = ROOT / "prometheus" / "prometheus.yml"

#: Series that Prometheus itself makes.
BUILT_IN = ("up", "scrape_duration_seconds", "scrape_samples_scraped", "ALERTS", "ALERTS_FOR_STATE")

#: What we use of the figures of Prometheus and Alertmanager about themselves, in 2.42 and 3.x, 0.25 and later.
OF_THE_SERVERS = (
    "alertmanager_config_last_reload_successful",
    "alertmanager_notifications_failed_total",
    "alertmanager_notifications_total",
    "prometheus_config_last_reload_successful",
    "prometheus_notifications_dropped_total",
    "prometheus_notifications_errors_total",
    "prometheus_notifications_sent_total",
    "prometheus_rule_evaluation_failures_total",
    "prometheus_rule_group_interval_seconds",
    "prometheus_rule_group_iterations_missed_total",
    "prometheus_rule_group_last_duration_seconds",
    "prometheus_sd_discovered_targets",
    "prometheus_sd_file_read_errors_total",
    "prometheus_target_interval_length_seconds",
    "prometheus_target_scrape_pool_exceeded_label_limits_total",
    "prometheus_target_scrape_pool_exceeded_target_limit_total",
    "prometheus_target_scrapes_exceeded_body_size_limit_total",
    "prometheus_target_scrapes_exceeded_sample_limit_total",
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_tsdb_head_series",
    "prometheus_tsdb_storage_blocks_bytes",
)


class GeneratorError(Exception):
    """The dashboards cannot be generated; the message names the place, what was found and what is allowed."""


@dataclass(frozen=True)
class Alert:
    """One alerting rule; a name may have one rule per severity."""

    name: str
    severity: str
    expr: str
    summary: str
    file: Path
    sign: str | None = None  # what the rule is about; the watch over the watch has none


def _rules(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for file in sorted(folder.glob("*.yml")):
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise GeneratorError(f"{file}: not YAML: {error}") from None
        found += [(file, rule) for group in document["groups"] for rule in group["rules"]]
    if not found:
        raise GeneratorError(f"{folder}: no rule found, allowed: *.yml files with Prometheus rules")
    return found


@cache
def alerts() -> tuple[Alert, ...]:
    """All alerting rules of alerts/rules."""
    found = []
    for file, rule in _rules(ALERT_RULES):
        if "alert" not in rule:
            continue
        try:
            summary = rule["annotations"]["summary"]
            labels = rule["labels"]
            found.append(Alert(rule["alert"], labels["severity"], rule["expr"], summary, file, labels.get("sign")))
        except KeyError as error:
            raise GeneratorError(f"{file}: alert {rule['alert']}: key {error} is missing") from None
    return tuple(found)


def signs() -> frozenset[str]:
    """What alerts can be about: the values of their label `sign`."""
    return frozenset(alert.sign for alert in alerts() if alert.sign)


@cache
def metrics() -> frozenset[str]:
    """Every series name that a query may use: the exporter's families, recording rules, the servers' own."""
    families = (*RUN_FAMILIES, *GPU_FAMILIES, *MONITOR_FAMILIES, *COLLECTOR_FAMILIES)
    names = {sample for family in families for sample in family.sample_names}
    recorded = {rule["record"] for _, rule in _rules(RECORDING_RULES) if "record" in rule}
    return frozenset({*names, *recorded, *BUILT_IN, *OF_THE_SERVERS})


def threshold(alert: str, severity: str, metric: str) -> float:
    """The number with which the rule compares `metric`, for example 0.9 from `... / max(total) > 0.90`.

    Raises GeneratorError unless exactly one such comparison stands in the rules of that name and severity.
    """
    pattern = re.compile(rf"\b{metric}\b(?:\{{[^}}]*\}})?[\s)]*(?:[<>]=?|==)\s*(\d+(?:\.\d+)?)(?![\w.])")
    rules = [a for a in alerts() if (a.name, a.severity) == (alert, severity)]
    numbers = {float(number) for rule in rules for number in pattern.findall(rule.expr)}
    if len(numbers) != 1:
        where = ", ".join(sorted({str(rule.file) for rule in rules})) or str(ALERT_RULES)
        raise GeneratorError(
            f"{where}: alert {alert} ({severity}): found {sorted(numbers) or 'no'} threshold of {metric}, allowed: one"
        )
    return numbers.pop()


def runbooks_url() -> str:
    """Where a reader of the dashboard finds the runbooks: as the alerts' messages say it."""
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text(encoding="utf-8"))
    return str(config["global"]["external_labels"]["runbooks_url"])


_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


def metrics_in(expr: str) -> tuple[str, ...]:
    """Names of the series that a PromQL expression reads, in order, each once."""
    bare = re.sub(r'"(?:\\.|[^"\\])*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)  # matchers and ranges
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return tuple(dict.fromkeys(name for name in names if name.lower() not in _WORDS))


def check_metrics(place: str, expr: str) -> None:
    """Raises GeneratorError when `expr` reads a series that nobody makes."""
    for name in metrics_in(expr):
        if name not in metrics():
            near = difflib.get_close_matches(name, metrics(), 3, 0.5)
            raise GeneratorError(
                f"{place}: found metric {name!r}, allowed: those of the families and recording rules"
                + (f" (near: {', '.join(near)})" if near else "")
            )
