"""A capture in two parts: its first minutes as the past of a Prometheus, the rest for an exporter that goes on with it.

What takes a quarter of an hour to be seen is seen at once that way, by the same rules on the same figures: only the
scrapes of the first part are not waited for.
"""

from __future__ import annotations

import json
from pathlib import Path

from training_exporter.backtest import rules
from training_exporter.backtest.engine import Engine
from training_exporter.gpu import GpuCollector
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.gpu.replay import CAPTURES, ReplayNvml, load
from training_exporter.sinks.openmetrics import OpenMetricsWriter, render

SCRAPE_SECONDS = 5
LABELS = {"job": "training", "instance": "past"}


def lived_through(capture: str, seconds: int, until: int, work: Path, data: Path) -> None:
    """Put the first `seconds` of a shipped capture into `data`, a Prometheus' data directory, as scraped up to `until`
    (Unix seconds), together with what the recording rules made of it."""
    work.mkdir()
    now = 0
    collector = GpuCollector(NvmlReader(ReplayNvml(load(CAPTURES / f"{capture}.json"), clock=lambda: now)))
    with OpenMetricsWriter(work / "past.om") as writer:
        for now in range(0, seconds, SCRAPE_SECONDS):
            writer.add(render(collector(), LABELS), until - seconds + now)
    collector.close()
    with Engine(work, SCRAPE_SECONDS) as engine:
        engine.load(work / "past.om")
        for _ in engine.record(rules.load(None, all_recordings=True).recordings, [(until - seconds, until)]):
            pass
    data.mkdir(parents=True)
    for block in (work / "data").iterdir():
        if (block / "meta.json").exists():
            block.rename(data / block.name)


def rest_of(capture: str, seconds: int, target: Path) -> Path:
    """Write what a shipped capture holds after its first `seconds` to `target`, a capture that begins there."""
    document = json.loads((CAPTURES / f"{capture}.json").read_text(encoding="utf-8"))
    at_once = {}
    frames = []
    for frame in document["frames"]:
        if frame["at"] <= seconds:
            at_once |= frame["set"]
        else:
            frames.append({"at": frame["at"] - seconds, "set": frame["set"]})
    document |= {"frames": [{"at": 0, "set": at_once}, *frames], "duration": document["duration"] - seconds}
    target.write_text(json.dumps(document), encoding="utf-8")
    return target
