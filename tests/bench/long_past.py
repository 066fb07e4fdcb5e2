"""The past of many runs in a Prometheus' data: what rules read over half an hour, an hour or a day."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from training_exporter.backtest.engine import create_blocks

SCRAPE_SECONDS = 5
BLOCK_SECONDS = 7200

#: Series of a run that is at work: name, labels, value (None: the time), and over how many hours a rule reads it.
SERIES = (
    ("gpu:llm_gpu_memory_used:bytes", 'gpu="{gpu}",uuid="{uuid}"', 6.0e10, 0.3),
    ("llm_training_state", 'instance="{instance}",job="training",run="{run}",state="training"', 1, 24.0),
    ("llm_training_state", 'instance="{instance}",job="training",run="{run}",state="evaluating"', 0, 0.6),
    ("llm_training_state", 'instance="{instance}",job="training",run="{run}",state="saving"', 0, 0.6),
    ("run:llm_training_data_wait:ratio_rate1m", 'run="{run}"', 0.01, 0.6),
    ("run:llm_training_out_of_memory:total", 'run="{run}"', 0, 1.1),
    ("run:llm_training_state:active", 'run="{run}"', 1, 1.1),
    ("run:llm_training_state:failed", 'run="{run}"', 0, 1.1),
    ("run:llm_training_state:number", 'run="{run}"', 2, 1.1),
    ("run:llm_training_state:scraped_timestamp_seconds", 'run="{run}"', None, 1.1),
)


def write_past(runs: list[dict[str, str]], until: int, hours: float, data: Path) -> None:
    """Put SERIES of `runs` (their `run`, `instance`, `gpu` and `uuid`) into `data`, a Prometheus' data directory, for
    at most `hours` up to `until` (Unix seconds). Raises StackError."""
    data.mkdir(parents=True, exist_ok=True)
    text = data.parent / "past.om"
    # promtool reads the whole file once per block: a file for each.
    begin = int(until - hours * 3600)
    while begin < until:
        end = min(until, (begin // BLOCK_SECONDS + 1) * BLOCK_SECONDS)
        with text.open("w") as file:
            for part in _text(runs, begin, end, until):
                file.write(part)
        create_blocks(text, data, 2)
        begin = end
    text.unlink(missing_ok=True)


def _text(runs: list[dict[str, str]], begin: int, end: int, until: int) -> Iterator[str]:
    for name, members in groupby(SERIES, key=lambda series: series[0]):
        yield f"# TYPE {name} gauge\n"
        for _, labels, value, hours in members:
            since = max(begin, until - int(hours * 3600))
            times = range(since + -since % SCRAPE_SECONDS, end, SCRAPE_SECONDS)
            points = [f"{time if value is None else value} {time}\n" for time in times]
            for run in runs:
                series = f"{name}{{{labels.format(**run)}}} "
                yield "".join([series + point for point in points])
    yield "# EOF\n"
