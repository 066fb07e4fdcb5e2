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
from training_exporter.supervise.families import PROCESS_FAMILIES

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
    families = (*RUN_FAMILIES, *PROCESS_FAMILIES, *GPU_FAMILIES, *MONITOR_FAMILIES, *COLLECTOR_FAMILIES)
    names = {sample for family in families for sample in family.sample_names}
    recorded = {rule["record"] for _, rule in _rules(RECORDING_RULES) if "record" in rule}
    return frozenset({*names, *recorded, *BUILT_IN, *OF_THE_SERVERS})


_NUMBER = r"(\d+(?:\.\d+)?)"


def thresholds(alert: str, severity: str, metric: str) -> tuple[float, ...]:
    """The numbers with which the rules of that name and severity compare `metric`, the least first.

    For example 0.9 from `... / max(total) > 0.90`. Raises GeneratorError when there is none.
    """
    series = rf"\b{metric}\b(?:\{{[^}}]*\}})?(?:\[[^]]*\])?"
    pattern = rf"{series}[\s)]*(?:[<>]=?|==)\s*{_NUMBER}(?![\w.]|\s*\*)"
    return _numbers(alert, severity, pattern, f"threshold of {metric}")


def threshold(alert: str, severity: str, metric: str) -> float:
    """As `thresholds`; raises GeneratorError unless there is exactly one."""
    return _one(alert, severity, thresholds(alert, severity, metric), f"threshold of {metric}")


def factor(alert: str, severity: str, metric: str) -> float:
    """The number by which the rule multiplies `metric`, for example 4 from `> on (run) 4 * max by (run) (metric)`.

    Raises GeneratorError unless there is exactly one.
    """
    pattern = rf"(?<![\w.]){_NUMBER}\s*\*\s*(?:\w+ by \([^)]*\) \()?{metric}(?![\w:])"
    what = f"factor of {metric}"
    return _one(alert, severity, _numbers(alert, severity, pattern, what), what)


def part(alert: str, severity: str, pattern: str) -> re.Match[str]:
    """Where `pattern` stands in a rule of that name and severity; raises GeneratorError when it does not."""
    for rule in _named(alert, severity):
        if found := re.search(pattern, rule.expr):
            return found
    raise _unlike(alert, severity, f"nothing that matches {pattern}")


def _numbers(alert: str, severity: str, pattern: str, what: str) -> tuple[float, ...]:
    numbers = {float(number) for rule in _named(alert, severity) for number in re.findall(pattern, rule.expr)}
    if not numbers:
        raise _unlike(alert, severity, f"no {what}")
    return tuple(sorted(numbers))


def _one(alert: str, severity: str, numbers: tuple[float, ...], what: str) -> float:
    if len(numbers) != 1:
        raise _unlike(alert, severity, f"{list(numbers)} as {what}")
    return numbers[0]


def _named(alert: str, severity: str) -> list[Alert]:
    return [rule for rule in alerts() if (rule.name, rule.severity) == (alert, severity)]


def _unlike(alert: str, severity: str, found: str) -> GeneratorError:
    where = ", ".join(sorted({str(rule.file) for rule in _named(alert, severity)})) or str(ALERT_RULES)
    return GeneratorError(f"{where}: alert {alert} ({severity}): found {found}, allowed: one")


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
