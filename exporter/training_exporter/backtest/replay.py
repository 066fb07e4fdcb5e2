"""Which alerts would have fired in finished runs, at which step, and when they would have cleared."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from training_exporter import ports
from training_exporter.backtest.engine import Engine
from training_exporter.backtest.firing import Firing, firings, merged
from training_exporter.backtest.rules import AlertRule, RuleSet, duration
from training_exporter.events import Event, RunEnded, RunStarted
from training_exporter.labels import run_label
from training_exporter.sinks.openmetrics import OpenMetricsWriter, Replay, Timeline, series
from training_exporter.sources.files import Record
from training_exporter.sources.log_history import RecordError
from training_exporter.stack import files
from training_exporter.stack.errors import StackError
from training_exporter.state import RunState

#: Where the clocks of all replayed runs start, so that one query asks about all of them: 2001-06-08 18:00 UTC, from
#: which `promtool` makes one block of runs of up to 4 years.
ORIGIN = 992_023_200.0

#: For how long the rules are evaluated after a run: long enough for the alert of one that vanished.
AFTER_END_SECONDS = 300.0

#: Runs longer than this are scraped a third as often, so that one of a week is replayed in seconds.
FINE_SECONDS = 86_400.0
COARSENING = 3

#: A record that spans more is not a run, but a clock that was wrong.
LONGEST_DAYS = 366

#: A journal without an end that was written to in the last minutes is that of a run still at work.
RECENT_SECONDS = 600.0

#: Share of the time that goes into reading and replaying the records, as the progress bar has it.
READING_SHARE = 0.6

#: (what is being done, share of the whole that is done)
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Alert:
    """One alert that would have fired: at `step`, until `cleared_step` (None: not before the end of the run)."""

    alert: str
    sign: str | None
    severity: str | None
    step: int
    cleared_step: int | None


@dataclass
class RunReport:
    """What the rules say about one run."""

    run: str
    source: Path
    max_steps: int | None
    alerts: list[Alert] = field(default_factory=list)


@dataclass
class Report:
    """The outcome of a backtest. `errors` are lines about what could not be read or evaluated."""

    runs: list[RunReport] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [
                {
                    "run": run.run,
                    "source": str(run.source),
                    "max_steps": run.max_steps,
                    "alerts": [
                        {
                            "alert": alert.alert,
                            "sign": alert.sign,
                            "severity": alert.severity,
                            "step": alert.step,
                            "cleared_step": alert.cleared_step,
                        }
                        for alert in run.alerts
                    ],
                }
                for run in self.runs
            ],
            "errors": self.errors,
        }


@dataclass(frozen=True)
class _Replayed:
    report: RunReport
    timeline: Timeline
    #: Seconds for which the rules are evaluated after the last scrape.
    after: float


def scrape_interval() -> float:
    """Seconds between two scrapes, and between two evaluations of the rules, as the shipped prometheus.yml has it."""
    config = yaml.safe_load((files.folder("prometheus") / "prometheus.yml").read_text(encoding="utf-8"))
    return duration(config["global"]["scrape_interval"])


def events_of(record: Record) -> list[Event]:
    """All events of a record. Raises RecordError, also for a record of more than LONGEST_DAYS."""
    events = list(record.events())
    days = (max(event.time for event in events) - events[0].time) / 86_400
    if days > LONGEST_DAYS:
        raise RecordError(
            f"{record.path}: found {days:.0f} days between its first and its last time, allowed: {LONGEST_DAYS} at most"
        )
    return events


def run_of(events: Sequence[Event], record: Record) -> str:
    """The name of the run, as a label: its own, or what its record is called."""
    first = events[0]
    return run_label((first.run if isinstance(first, RunStarted) else "") or record.run)


def label_of(events: Sequence[Event], record: Record, names: dict[str, int]) -> str:
    """The run's name, numbered where another one of `names` (how often each was given) has it too."""
    name = label = run_of(events, record)
    while label in names:
        names[name] += 1
        label = f"{name} ({names[name]})"
    names[label] = 1
    return label


def interval_for(events: Sequence[Event], fine: float) -> float:
    """Seconds between the scrapes of a run; `fine` for one of ordinary length."""
    return fine * COARSENING if events[-1].time - events[0].time > FINE_SECONDS else fine


def backtest(
    records: Sequence[Record],
    rules: RuleSet,
    *,
    new_state: Callable[[], RunState] = RunState,
    interval: float | None = None,
    progress: Progress = lambda what, share: None,
) -> Report:
    """Replay `records` and evaluate `rules` over them. A record that cannot be read is a line of `errors`.

    `interval` (seconds) is that of scrapes and of the rules' evaluation, the shipped prometheus.yml's for None.
    Raises StackError where Prometheus or promtool is missing or does not work.
    """
    report = Report()
    fine = interval or scrape_interval()
    with tempfile.TemporaryDirectory(prefix="backtest-") as folder:
        work = Path(folder)
        batches = [_Batch(work / "fine", fine), _Batch(work / "coarse", fine * COARSENING)]
        names: dict[str, int] = {}
        for number, record in enumerate(records):
            progress(f"reading {record.run}", READING_SHARE * number / len(records))
            try:
                events = events_of(record)
                batches[interval_for(events, fine) > fine].add(record, events, names, new_state())
            except RecordError as error:
                report.errors.append(str(error))
            report.errors += record.problems
        for batch in batches:
            if batch.runs:
                with batch:
                    batch.evaluate(rules, report.errors, progress)
        order = {record.source: number for number, record in enumerate(records)}
        found = [each.report for batch in batches for each in batch.runs.values()]
        report.runs = sorted(found, key=lambda run: order[run.source])
    progress("done", 1.0)
    return report


class _Batch:
    """Runs that are scraped at the same interval, in one Prometheus."""

    def __init__(self, work: Path, interval: float) -> None:
        self._work, self._interval = work, interval
        work.mkdir(parents=True)
        self._text = work / "samples.om"
        self._writer = OpenMetricsWriter(self._text)
        self._replay = Replay(self._writer, interval=interval, origin=ORIGIN)
        self.runs: dict[str, _Replayed] = {}

    def add(self, record: Record, events: list[Event], names: dict[str, int], state: RunState) -> None:
        """Replay one run; its samples are there when the batch is entered."""
        label = label_of(events, record, names)
        # What becomes of a run that is still at work is not known.
        at_work = record.format == "journal" and time.time() - events[-1].time < RECENT_SECONDS
        after = 0.0 if at_work and not isinstance(events[-1], RunEnded) else AFTER_END_SECONDS
        timeline = self._replay.run(
            events, name=label, state=state, labels={"instance": label, "job": "training"}, lost_seconds=after
        )
        self.runs[label] = _Replayed(
            RunReport(run_of(events, record), record.source, timeline.max_steps), timeline, after
        )

    def __enter__(self) -> _Batch:
        self._end = max(run.timeline.end for run in self.runs.values()) + AFTER_END_SECONDS
        # Rules ask since when this Prometheus has been running: always.
        labels = {"instance": f"localhost:{ports.PROMETHEUS}", "job": "prometheus"}
        lines = {
            **series("up", "gauge", labels, 1.0),
            **series("process_start_time_seconds", "gauge", labels, ORIGIN - 1),
        }
        for tick in range(round((self._end - ORIGIN) / self._interval) + 1):
            self._writer.add(lines, ORIGIN + tick * self._interval)
        self._writer.finish()
        self._engine = Engine(self._work, self._interval)
        self._engine.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._engine.__exit__(*error)

    def evaluate(self, rules: RuleSet, errors: list[str], progress: Progress) -> None:
        """Let Prometheus evaluate the rules over all runs of the batch."""
        total = sum(map(len, rules.recordings)) + len(rules.alerts) + 1
        done = 0

        def step(what: str) -> None:
            nonlocal done
            progress(what, READING_SHARE + (1 - READING_SHARE) * done / total)
            done += 1

        step("loading the samples into Prometheus")
        self._engine.load(self._text)
        self._text.unlink()
        for recording in self._engine.record(rules.recordings, [(ORIGIN, self._end)]):
            step(f"recording {recording.name}")
        found: dict[tuple[str, str, str], list[tuple[AlertRule, Firing]]] = {}
        for rule in rules.alerts:
            step(f"evaluating {rule.name}")
            try:
                self._evaluate(rule, found)
            except StackError as error:
                errors.append(f"alert {rule.name}: Prometheus cannot evaluate it: {error}")
        for (run, _, _), parts in found.items():
            self._report(self.runs[run], parts)
        for replayed in self.runs.values():
            replayed.report.alerts.sort(key=lambda alert: (alert.step, alert.alert, str(alert.severity)))

    def _evaluate(self, rule: AlertRule, found: dict[tuple[str, str, str], list[tuple[AlertRule, Firing]]]) -> None:
        step = rule.interval or self._interval
        for each in self._engine.query_range(rule.expr, ORIGIN, self._end, step):
            labels = {**each.labels, **{key: _filled(text, each.labels) for key, text in rule.labels.items()}}
            run = self.runs.get(labels.get("run", ""))
            if run is None:
                continue  # It is not about a run: the watch over the watch.
            count = int((run.timeline.end + run.after - ORIGIN) / step) + 1
            evaluations = [ORIGIN + number * step for number in range(count)]
            key = (labels["run"], rule.name, f"{labels.get('severity')} {labels.get('sign')}")
            found.setdefault(key, []).extend(
                (_with_labels(rule, labels), firing)
                for firing in firings(rule, (_on_grid(at, step) for at, _ in each.points), evaluations)
            )

    def _report(self, replayed: _Replayed, parts: list[tuple[AlertRule, Firing]]) -> None:
        if not parts:
            return
        timeline, rule = replayed.timeline, parts[0][0]
        for firing in merged(firing for _, firing in parts):
            cleared = firing.end is not None and firing.end <= timeline.end
            replayed.report.alerts.append(
                Alert(
                    rule.name,
                    rule.labels.get("sign"),
                    rule.labels.get("severity"),
                    timeline.step_at(firing.start),
                    timeline.step_at(firing.end) if cleared and firing.end is not None else None,
                )
            )


def _on_grid(time: float, step: float) -> float:
    """The time of the evaluation that `time`, as text has it in milliseconds, stands for."""
    return ORIGIN + round((time - ORIGIN) / step) * step


_LABEL = re.compile(r"\{\{-?\s*\$labels\.(\w+)\s*-?\}\}")


def _filled(text: str, labels: dict[str, str]) -> str:
    """A rule's label with the series' labels put in, the only template that makes sense there."""
    return _LABEL.sub(lambda match: labels.get(match[1], ""), text)


def _with_labels(rule: AlertRule, labels: dict[str, str]) -> AlertRule:
    return AlertRule(rule.name, rule.expr, labels, rule.interval, rule.hold, rule.keep)
