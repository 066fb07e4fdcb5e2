"""Alert and recording rules as data, read from Prometheus rule files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training_exporter import yaml_file
from training_exporter.stack import binaries, files
from training_exporter.stack.errors import StackError

_DURATION = re.compile(
    r"(?:(?P<y>\d+)y)?(?:(?P<w>\d+)w)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?(?:(?P<ms>\d+)ms)?"
)
_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

#: Series that Prometheus itself writes about alerts; a backtest has none.
_ALERT_SERIES = re.compile(r"\b(ALERTS|ALERTS_FOR_STATE)\b")


def duration(text: str) -> float:
    """Seconds of a Prometheus duration such as `1h30m`. Raises ValueError."""
    match = _DURATION.fullmatch(str(text).strip())
    if str(text).strip() == "0":
        return 0.0
    if match is None or not any(match.groupdict().values()):
        raise ValueError(f"found {text!r}, allowed: a duration such as 30s, 5m or 1h30m")
    return sum(_UNITS[unit] * int(value) for unit, value in match.groupdict().items() if value)


@dataclass(frozen=True)
class Rule:
    """One rule; `interval` in seconds is its group's, None where the group has none of its own."""

    name: str
    expr: str
    labels: dict[str, str]
    interval: float | None


@dataclass(frozen=True)
class AlertRule(Rule):
    """`hold` is `for`, `keep` is `keep_firing_for`, in seconds."""

    hold: float = 0.0
    keep: float = 0.0


@dataclass(frozen=True)
class RecordingRule(Rule):
    pass


@dataclass
class RuleSet:
    """The rules of a backtest. `left_out` says which alerts cannot be replayed, and why."""

    alerts: list[AlertRule] = field(default_factory=list)
    #: Recording rules that the alerts read, in levels: those of a level read only those of the levels before.
    recordings: list[list[RecordingRule]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def load(folder: Path | None, *, all_recordings: bool = False) -> RuleSet:
    """The rules of all files in `folder`, or the shipped ones for None.

    Recording rules that a folder of one's own lacks are taken from the shipped ones. `all_recordings` keeps also
    those that no alert reads. Raises StackError for a folder without rules, and for rules that `promtool` refuses.
    """
    shipped = [files.folder("alerts") / "rules", files.folder("prometheus") / "rules"]
    if folder is None:
        alerts, recordings = _rules([file for each in shipped for file in _rule_files(each)])
    else:
        if not folder.is_dir():
            raise StackError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
        found = _rule_files(folder)
        if not found:
            raise StackError(f"{folder}: no rule file in it, allowed: files *.yml or *.yaml with Prometheus rules")
        alerts, recordings = _rules(found)
        if not alerts:
            raise StackError(f"{folder}: no alert rule in its {len(found)} files")
        known = {rule.name for rule in recordings}
        recordings += [rule for rule in _rules(_rule_files(shipped[1]))[1] if rule.name not in known]
    result = RuleSet()
    for alert in alerts:
        if _ALERT_SERIES.search(alert.expr):
            result.left_out[alert.name] = "it reads ALERTS, which only a running Prometheus writes"
        else:
            result.alerts.append(alert)
    readers: Iterable[Rule] = [*result.alerts, *recordings] if all_recordings else result.alerts
    result.recordings = _levels(recordings, readers, all_recordings)
    return result


def _rule_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".yml", ".yaml"} and path.is_file())


def _rules(paths: Sequence[Path]) -> tuple[list[AlertRule], list[RecordingRule]]:
    _check(paths)
    alerts: list[AlertRule] = []
    recordings: list[RecordingRule] = []
    for path in paths:
        try:
            document = yaml_file.load(path) or {}
        except yaml_file.YamlFileError as error:
            raise StackError(str(error)) from None
        for group in document.get("groups") or ():
            interval = duration(group["interval"]) if group.get("interval") else None
            for rule in group.get("rules") or ():
                labels = {str(key): str(value) for key, value in (rule.get("labels") or {}).items()}
                if "alert" in rule:
                    alerts.append(
                        AlertRule(
                            rule["alert"], str(rule["expr"]), labels, interval,
                            duration(rule.get("for", "0")), duration(rule.get("keep_firing_for", "0")),
                        )
                    )  # fmt: skip
                else:
                    recordings.append(RecordingRule(rule["record"], str(rule["expr"]), labels, interval))
    return alerts, recordings


def _check(paths: Sequence[Path]) -> None:
    """Let Prometheus' own parser judge the files."""
    promtool = binaries.require([binaries.PROMTOOL])["promtool"]
    done = subprocess.run(
        [promtool, "check", "rules", *paths], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        reasons = [line for line in lines if line and not line.startswith(("Checking", "SUCCESS", "FAILED"))]
        raise StackError("; ".join(reasons)[:500] or "promtool refuses the rules")


def _reads(rule: Rule, name: str) -> bool:
    return re.search(rf"(?<![\w:]){re.escape(name)}(?![\w:])", rule.expr) is not None


def _levels(recordings: list[RecordingRule], readers: Iterable[Rule], keep_all: bool) -> list[list[RecordingRule]]:
    """The recording rules that are read, directly or through another one, ordered by who reads whom."""
    needed = {rule.name for rule in recordings if keep_all or any(_reads(reader, rule.name) for reader in readers)}
    while more := {
        rule.name
        for rule in recordings
        if rule.name not in needed and any(_reads(other, rule.name) for other in recordings if other.name in needed)
    }:
        needed |= more
    left = [rule for rule in recordings if rule.name in needed]
    levels: list[list[RecordingRule]] = []
    while left:
        names = {rule.name for rule in left}
        level = [rule for rule in left if not any(_reads(rule, name) for name in names - {rule.name})]
        if not level:
            raise StackError(f"recording rules that read each other: {', '.join(sorted(names))}")
        levels.append(level)
        left = [rule for rule in left if rule not in level]
    return levels
