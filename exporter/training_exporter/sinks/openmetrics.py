"""The past as OpenMetrics text with timestamps: the same families as `/metrics`, read at the times of scrapes.

A run of the past is replayed on a regular grid of scrapes, as Prometheus would have taken them: what happened between
two of them is seen at the second one, and nothing is seen of a process that is not there.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO

from prometheus_client import Metric

from training_exporter.events import FINAL_STATES, Event, RunStarted
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.history import restored
from training_exporter.state import RunState

#: Scrapes that a process still answers after the end of its run, as `Monitor.close` has it.
SCRAPES_AFTER_END = 2

#: Seconds without any event of a process that is there, of which the scrapes are written: by then all has been said
#: that can be said of a run that stands still. What follows is left out where times are kept, else the time itself is.
LONGEST_SILENCE = 6 * 3600.0

#: Samples of one scrape as lines without their time: by (family, type), then by the labels of the metric.
Lines = dict[tuple[str, str], dict[str, list[str]]]

#: Characters of one metric that are kept in memory.
_IN_MEMORY = 4 << 20


def _spooled() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)


class OpenMetricsWriter:
    """Collects samples, those of a series in time order, and writes them to `path` as the format has it: family by
    family, and in it metric by metric.

    A context: the file is there once it is left without an error. `finish` and `discard` do the same by hand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._families: dict[tuple[str, str], IO[bytes]] = {}
        self._metrics: dict[tuple[tuple[str, str], str], IO[bytes]] = {}

    def add(self, lines: Lines, time: float) -> None:
        """Take the samples of `lines` at `time` (Unix seconds)."""
        end = f" {time:.3f}\n"
        for family, metrics in lines.items():
            for labels, series in metrics.items():
                part = self._metrics.get((family, labels))
                if part is None:
                    part = self._metrics[family, labels] = _spooled()
                part.write("".join([line + end for line in series]).encode())
                self.samples += len(series)

    def flush(self) -> None:
        """Say that nothing more comes of the metrics so far: those of the next run are others."""
        for (family, _), part in self._metrics.items():
            part.seek(0)
            shutil.copyfileobj(part, self._families.get(family) or self._begin(family), 1 << 20)
            part.close()
        self._metrics = {}

    def finish(self) -> None:
        """Write the file."""
        self.flush()
        with self.path.open("wb") as file:
            for part in self._families.values():
                part.seek(0)
                shutil.copyfileobj(part, file, 1 << 20)
            file.write(b"# EOF\n")
        self.discard()

    def discard(self) -> None:
        """Forget what was taken."""
        for part in (*self._metrics.values(), *self._families.values()):
            part.close()
        self._metrics, self._families = {}, {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> OpenMetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.discard()

    def _begin(self, family: tuple[str, str]) -> IO[bytes]:
        # A file per family, because the samples of many runs do not fit into memory.
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix=f"{self.path.name}-", dir=self.path.parent)
        part = (Path(self._folder.name) / str(len(self._families))).open("w+b")
        part.write(f"# TYPE {family[0]} {family[1]}\n".encode())
        self._families[family] = part
        return part


def render(metrics: Iterable[Metric], more: Mapping[str, str]) -> Lines:
    """Each sample as a line without its time. `more` labels go on each, as a scrape adds them."""
    added = _labels(more)
    lines: Lines = {}
    for metric in metrics:
        family: dict[str, list[str]] = {}
        lines[metric.name, metric.type] = family
        for sample in metric.samples:
            text = _labels(sample.labels, added)
            # The buckets of a histogram are one metric.
            key = (
                _labels({k: v for k, v in sample.labels.items() if k != "le"}, added) if "le" in sample.labels else text
            )
            family.setdefault(key, []).append(f"{sample.name}{{{text}}} {number(sample.value)}")
    return lines


def series(name: str, kind: str, labels: Mapping[str, str], value: float) -> Lines:
    """One sample in the form of `render`."""
    text = _labels(labels)
    return {(name, kind): {text: [f"{name}{{{text}}} {number(value)}"]}}


def _labels(labels: Mapping[str, str], added: str = "") -> str:
    return _label_text(tuple(labels.items()), added)


# The same few hundred sets of labels come back at every scrape.
@lru_cache(maxsize=4096)
def _label_text(labels: tuple[tuple[str, str], ...], added: str) -> str:
    own = ",".join(f'{name}="{escape(value)}"' for name, value in labels)
    return f"{own},{added}" if own and added else own or added


def escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


@dataclass
class Timeline:
    """Where a replayed run stood at each scrape. Times in Unix seconds, as written."""

    start: float
    run: str = ""
    max_steps: int | None = None
    #: Time of the last scrape that the run answered.
    end: float = 0.0
    state: str | None = None
    _times: list[float] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)

    def note(self, time: float, step: int) -> None:
        self.end = time
        if not self._steps or self._steps[-1] != step:
            self._times.append(time)
            self._steps.append(step)

    def step_at(self, time: float) -> int:
        """The step that the last scrape up to `time` saw."""
        at = bisect_right(self._times, time) - 1
        return self._steps[at] if at >= 0 else 0


class Replay:
    """Replays runs into `writer` at a scrape every `interval` seconds.

    `origin` puts the start of every run at this time, a multiple of the interval; None keeps the runs' own times.
    """

    def __init__(self, writer: OpenMetricsWriter, *, interval: float, origin: float | None = None) -> None:
        self._writer, self._interval, self._origin = writer, interval, origin

    def run(
        self,
        events: Iterable[Event],
        *,
        name: str,
        state: RunState,
        labels: Mapping[str, str],
        lost_seconds: float = 0.0,
        up: bool = True,
    ) -> Timeline:
        """Replay one run under the label `run`=`name`; `state` is a fresh one, `labels` are a scrape target's.

        A process that left without an end (killed) is seen as a target that is down, until the run is taken up again
        or for `lost_seconds`; one that ended in good order is no target any more. `up` False leaves Prometheus' own
        series about the target out.
        """
        timeline: Timeline | None = None
        tick, shift, previous = 0, 0.0, 0.0
        past: list[Event] = []
        target = {value: series("up", "gauge", labels, value) if up else {} for value in (0.0, 1.0)}
        lines: Lines | None = None

        def scrape(alive: bool) -> None:
            nonlocal tick, lines
            assert timeline is not None
            time = timeline.start + tick * self._interval
            tick += 1
            self._writer.add(target[float(alive)], time)
            if alive:
                if lines is None:
                    lines = render(collect(RUN_FAMILIES, state, {"run": name}), labels)
                self._writer.add(lines, time)
                timeline.note(time, state.step or 0)

        def due(until: float) -> Iterator[None]:
            """Each scrape before `until`."""
            assert timeline is not None
            while timeline.start + tick * self._interval < until:
                yield

        for event in events:
            if timeline is None:
                start = self._origin
                if start is None:
                    start = math.ceil(event.time / self._interval) * self._interval
                else:
                    shift = start - event.time
                timeline = Timeline(start=start, end=start)
            now = event.time + shift
            if isinstance(event, RunStarted) and state.run is not None:
                # Another process: what the one before left behind lies between.
                left = SCRAPES_AFTER_END if state.state in FINAL_STATES else 0
                for _ in due(now):
                    if now - previous <= 2 * self._interval or left > 0:
                        scrape(alive=True)
                        left -= 1
                    elif state.state in FINAL_STATES:
                        tick += 1
                    else:
                        scrape(alive=False)
            else:
                if now - previous > LONGEST_SILENCE:
                    for _ in due(previous + LONGEST_SILENCE):
                        scrape(alive=True)
                    silent = math.ceil((now - timeline.start) / self._interval) - tick
                    if self._origin is None:
                        tick += max(0, silent)
                    else:
                        shift -= max(0, silent) * self._interval
                        now = event.time + shift
                for _ in due(now):
                    scrape(alive=True)
            event = _shifted(event, shift)
            if isinstance(event, RunStarted) and state.run is not None:
                starts = [each.step for each in (*past, event) if isinstance(each, RunStarted)]
                state = restored(past, starts, state.profile)
            state.apply(event)
            past.append(event)
            lines, previous = None, now
        if timeline is None:
            raise ValueError("no events")
        ended = state.state in FINAL_STATES
        for _ in due(previous + (SCRAPES_AFTER_END if ended else 1) * self._interval):
            scrape(alive=True)
        if not ended:
            for _ in due(previous + lost_seconds):
                scrape(alive=False)
        self._writer.flush()
        timeline.run, timeline.max_steps, timeline.state = name, state.max_steps, state.state
        return timeline


def _shifted(event: Event, shift: float) -> Event:
    return dataclasses.replace(event, time=event.time + shift) if shift else event
