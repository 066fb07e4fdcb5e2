"""A real Prometheus over samples of the past: blocks by `promtool`, answers by range queries."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from training_exporter.backtest.rules import RecordingRule
from training_exporter.sinks.openmetrics import OpenMetricsWriter, series
from training_exporter.stack import binaries
from training_exporter.stack.errors import StackError
from training_exporter.stack.servers import Child, Stack, free_port

#: Points per series that Prometheus gives in one answer are 11,000 at most.
POINTS_PER_QUERY = 10_000

QUERY_SECONDS = 300


@dataclass(frozen=True)
class Series:
    """One series of a range query: its labels, and values by time (Unix seconds)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


def create_blocks(text: Path, folder: Path, max_block_hours: int) -> None:
    """Make blocks of the OpenMetrics file `text` in `folder`. Raises StackError with promtool's own words."""
    promtool = binaries.require([binaries.PROMTOOL])["promtool"]
    command: list[str | Path] = [
        promtool, "tsdb", "create-blocks-from", f"--max-block-duration={max_block_hours}h", "--quiet",
        "openmetrics", text, folder,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise StackError(f"promtool could not make blocks: {(done.stderr or done.stdout).strip()[-500:]}")


class Engine:
    """Prometheus on a free local port with the blocks in `work`/data. A context that starts and stops it.

    `interval` (seconds) is that of the scrapes and of the rules. Samples older than that are not seen: a live scrape
    marks a series that has gone as stale, which samples from a file cannot.
    """

    def __init__(self, work: Path, interval: float, max_block_hours: int = 1_000_000) -> None:
        self.interval = interval
        # As a rule one block, whatever the length of the runs: promtool reads the whole file once per block.
        self._max_block_hours = max_block_hours
        self._work = work
        self._data = work / "data"
        self._program = binaries.require([binaries.PROMETHEUS])["prometheus"]
        self._stack = Stack(work / "log")
        self._child: Child | None = None

    def __enter__(self) -> Engine:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def load(self, text: Path) -> None:
        """Take up the samples of an OpenMetrics file; Prometheus starts again."""
        if self._child is not None:
            self._child.stop()
        create_blocks(text, self._data, self._max_block_hours)
        config = self._work / "prometheus.yml"
        config.write_text("global: {scrape_interval: 1h}\n")
        port = free_port(0)
        self._child = self._stack.start(
            "prometheus",
            [
                self._program,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._data}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--query.lookback-delta={round(self.interval * 1000) - 1}ms",
                f"--query.timeout={QUERY_SECONDS}s",
                "--query.max-samples=500000000",
            ],
            url=f"http://127.0.0.1:{port}",
        )
        self._child.wait_ready("/-/ready")

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """The values of `expr` at `start`, `start` + `step` and so on up to `end`. Raises StackError."""
        merged: dict[tuple[tuple[str, str], ...], Series] = {}
        since = start
        while since <= end:
            until = min(end, since + (POINTS_PER_QUERY - 1) * step)
            for each in self._query(expr, since, until, step):
                key = tuple(sorted(each.labels.items()))
                if key in merged:
                    merged[key].points.extend(each.points)
                else:
                    merged[key] = each
            since += POINTS_PER_QUERY * step
        return list(merged.values())

    def record(
        self, levels: Sequence[Sequence[RecordingRule]], windows: Sequence[tuple[float, float]]
    ) -> Iterator[RecordingRule]:
        """Evaluate recording rules in `windows` of time as Prometheus would have, and take up what they give.

        The rules of a level read those of the levels before. Yields each rule before it is evaluated.
        """
        for number, level in enumerate(levels):
            text = self._work / f"recorded-{number}.om"
            with OpenMetricsWriter(text) as writer:
                for rule in level:
                    yield rule
                    for start, end in windows:
                        self._record(rule, start, end, writer)
            if writer.samples:
                self.load(text)
            text.unlink()

    def _record(self, rule: RecordingRule, start: float, end: float, writer: OpenMetricsWriter) -> None:
        step = rule.interval or self.interval
        # A rule that is evaluated more rarely keeps its value in between, for which Prometheus looks back.
        repeats = max(1, round(step / self.interval))
        for found in self.query_range(rule.expr, start, end, step):
            labels = {**found.labels, **rule.labels}
            labels.pop("__name__", None)
            for time, value in found.points:
                line = series(rule.name, "unknown", labels, value)
                for repeat in range(repeats):
                    writer.add(line, time + repeat * self.interval)

    def _query(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        assert self._child is not None
        parameters = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        body = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(
                f"{self._child.url}/api/v1/query_range", body, timeout=QUERY_SECONDS + 10
            ) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")
            try:
                detail = json.loads(detail)["error"]
            except (ValueError, KeyError, TypeError):
                detail = detail[:300]
            raise StackError(detail) from None
        except (OSError, ValueError, KeyError) as error:
            raise StackError(f"Prometheus does not answer: {error}") from None
        return [
            Series(each["metric"], [(float(time), float(value)) for time, value in each["values"]]) for each in result
        ]
