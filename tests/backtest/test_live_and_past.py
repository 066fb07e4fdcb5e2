"""A live run that Prometheus watches and the backtest of its journal say the same."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import yaml

from training_exporter import Monitor, events
from training_exporter.backtest import replay, rules
from training_exporter.backtest.engine import Series
from training_exporter.sources import files
from training_exporter.stack import binaries
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Child, Stack, free_port

INTERVAL = 1.0
STEP_SECONDS = 0.1
STEPS = 200

RULES = {
    "HighLoss": {"expr": "llm_training_loss > 3"},
    "HighLossHeld": {"expr": "llm_training_loss > 3", "for": "3s"},
    "HighLossTooShort": {"expr": "llm_training_loss > 3", "for": "8s"},
    "HighLossKept": {"expr": "llm_training_loss > 3", "keep_firing_for": "4s"},
    "NonFinite": {"expr": 'llm_training_nonfinite_total{kind="loss"} > 0'},
    "Rising": {"expr": "delta(llm_training_loss_smoothed[4s]) > 0.2"},
    "Failed": {"expr": "last_over_time(run:llm_training_state:failed[1h]) == 1"},
}


def loss(step: int) -> float:
    return math.nan if step == 140 else 5.0 if 50 <= step < 100 else 2.0


def start_prometheus(stack: Stack, work: Path, rule_files: list[Path]) -> tuple[Child, Path]:
    targets = work / "targets"
    targets.mkdir()
    config = {
        "global": {"scrape_interval": f"{INTERVAL:g}s", "evaluation_interval": f"{INTERVAL:g}s"},
        "rule_files": list(map(str, rule_files)),
        "scrape_configs": [{"job_name": "training", "file_sd_configs": [{"files": [f"{targets}/*.json"]}]}],
    }
    (work / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port(0)
    program = binaries.require([binaries.PROMETHEUS])["prometheus"]
    child = stack.start(
        "prometheus",
        [program, f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        url=f"http://127.0.0.1:{port}",
    )  # fmt: skip
    child.wait_ready("/-/ready")
    return child, targets


def firing_spans(prometheus: Prometheus, run: str) -> dict[str, list[tuple[float, float]]]:
    """(first, last) time at which each alert of the run was firing, from the samples that Prometheus itself wrote."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for each in matrix(prometheus, f'ALERTS{{alertstate="firing",run="{run}"}}[10m]'):
        times = [at for at, _ in each.points]
        parts = [[times[0], times[0]]]
        for before, after in itertools.pairwise(times):
            if after - before > 2.5 * INTERVAL:
                parts.append([after, after])
            parts[-1][1] = after
        spans[each.labels["alertname"]] = [(first, last) for first, last in parts]
    return spans


def matrix(prometheus: Prometheus, expression: str) -> list[Series]:
    found = prometheus._get("/api/v1/query", query=expression)["result"]
    return [Series(each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in found]


def test_the_same_alerts_at_the_same_steps(tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    own = [{"alert": name, "labels": {"sign": name.lower()}, **rule} for name, rule in RULES.items()]
    recording = {
        "record": "run:llm_training_state:failed", "expr": 'max by (run) (llm_training_state{state="failed"})'
    }  # fmt: skip
    (folder / "own.yml").write_text(yaml.safe_dump({"groups": [{"name": "own", "rules": [recording, *own]}]}))
    with Stack(tmp_path / "log") as stack:
        server, targets = start_prometheus(stack, tmp_path, [folder / "own.yml"])
        monitor = Monitor("live", output_dir=tmp_path / "run", port=0, gpu=False, targets_dir=targets)
        began = time.time()
        monitor.emit(events.RunStarted(time=began, run="live", max_steps=1000))
        wait_until_scraped(Prometheus(server.url))
        times = {}
        for step in range(1, STEPS + 1):
            time.sleep(STEP_SECONDS)
            now = times[step] = time.time()
            monitor.emit(events.StepEnded(time=now, step=step, duration_seconds=STEP_SECONDS))
            monitor.emit(events.LossLogged(time=now, step=step, loss=loss(step)))
        monitor.end("failed", "ValueError: for the test")
        monitor.close()
        time.sleep(3 * INTERVAL)
        live = firing_spans(Prometheus(server.url), "live")
    records, errors = files.find([tmp_path / "run"])
    assert not errors
    report = replay.backtest(records, rules.load(folder), interval=INTERVAL)
    assert not report.errors
    past: dict[str, list[replay.Alert]] = {}
    for alert in report.runs[0].alerts:
        past.setdefault(alert.alert, []).append(alert)

    assert set(live) == set(past) == set(RULES) - {"HighLossTooShort"}
    # The phases of scrape and evaluation against the steps are Prometheus' own: up to an interval each, and a little.
    slack = 2 * INTERVAL + 0.7
    for name, alerts in past.items():
        assert len(alerts) == len(live[name]), name
        for alert, (first, last) in zip(alerts, live[name], strict=True):
            assert abs(times[alert.step] - first) <= slack, (name, "fired")
            if alert.cleared_step is None:
                assert last >= times[STEPS] - slack, (name, "lasted")
            else:
                assert abs(times[alert.cleared_step] - last) <= slack, (name, "cleared")


def wait_until_scraped(prometheus: Prometheus) -> None:
    end = time.monotonic() + 30
    while not prometheus.query("llm_training_state"):
        assert time.monotonic() < end, "Prometheus did not find the run"
        time.sleep(0.2)
