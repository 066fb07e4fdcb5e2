"""The past as OpenMetrics text: valid, and what a scrape at that time would have shown."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from training_exporter import events
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.sinks.openmetrics import LONGEST_SILENCE, OpenMetricsWriter, Replay, Timeline, series
from training_exporter.state import RunState

ORIGIN = 1_000_000.0
LABELS = {"instance": "i", "job": "training"}


def some_run(seconds: float = 1.0, steps: int = 30, run: str = 'a "quoted"\nname') -> list[events.Event]:
    found: list[events.Event] = [events.RunStarted(time=500.0, run=run, max_steps=steps)]
    for n in range(1, steps + 1):
        at = 500.0 + n * seconds
        found.append(events.StepEnded(time=at, step=n, epoch=n / steps, tokens=100, duration_seconds=seconds))
        found.append(events.LossLogged(time=at, step=n, loss=math.nan if n == 7 else 2.0, learning_rate=1e-4))
    found.append(events.RunEnded(time=at, state="completed"))
    return found


def replayed(path: Path, found: Iterable[events.Event], **options: float) -> tuple[Timeline, dict[float, dict]]:
    """The timeline, and the samples (name and labels to value) by time, read by another program's strict parser."""
    with OpenMetricsWriter(path) as writer:
        timeline = Replay(writer, interval=5.0, origin=ORIGIN).run(
            found, name="r", state=RunState(), labels=LABELS, **options
        )
    samples: dict[float, dict] = {}
    for document in _documents(path.read_text()):
        for family in text_string_to_metric_families(document):
            for sample in family.samples:
                at = samples.setdefault(float(sample.timestamp), {})
                at[sample.name, *sorted(sample.labels.items())] = sample.value
    return timeline, samples


def _documents(text: str) -> list[str]:
    """The text, histograms and summaries apart with one time each: the parser drops what has the time before it."""
    assert text.endswith("# EOF\n")
    families = [f"# TYPE {family}" for family in text.removesuffix("# EOF\n").split("# TYPE ") if family]
    others = [family for family in families if not family.split("\n")[0].endswith((" histogram", " summary"))]
    documents = ["".join(others)]
    for family in families:
        if family not in others:
            head, *lines = family.splitlines(keepends=True)
            for time in dict.fromkeys(line.split()[-1] for line in lines):
                documents.append(head + "".join(line for line in lines if line.split()[-1] == time))
    return [document + "# EOF\n" for document in documents]


def test_each_scrape_shows_the_state_of_its_time(tmp_path: Path) -> None:
    found = some_run()
    timeline, samples = replayed(tmp_path / "x.om", found)
    # The end is at 30 s, and its state is scraped twice.
    assert sorted(samples) == [ORIGIN + 5 * n for n in range(8)]
    assert (timeline.start, timeline.end, timeline.state) == (ORIGIN, ORIGIN + 35, "completed")
    state = RunState()
    pending = list(found)
    for at, seen in samples.items():
        while pending and pending[0].time - 500.0 <= at - ORIGIN:
            event = pending.pop(0)
            state.apply(event)
        expected = {
            (sample.name, *sorted({**sample.labels, **LABELS}.items())): sample.value
            for metric in collect(RUN_FAMILIES, state, {"run": "r"})
            for sample in metric.samples
        }
        assert seen.pop(("up", *LABELS.items())) == 1.0
        assert set(seen) == set(expected)
        for key, value in seen.items():
            if key[0].endswith("_timestamp_seconds"):
                value += 500.0 - ORIGIN
            assert value == pytest.approx(expected[key], nan_ok=True), key
        assert timeline.step_at(at + 1) == (state.step or 0)


def test_long_steps_are_scraped_as_often(tmp_path: Path) -> None:
    _, samples = replayed(tmp_path / "x.om", some_run(seconds=600.0, steps=3))
    assert sorted(samples) == [ORIGIN + 5 * n for n in range(362)]


def test_a_killed_process_is_a_target_that_is_down(tmp_path: Path) -> None:
    timeline, samples = replayed(tmp_path / "x.om", some_run()[:-1], lost_seconds=60.0)
    up = {at - ORIGIN: seen["up", *LABELS.items()] for at, seen in samples.items()}
    assert [at for at, value in up.items() if value == 1.0][-1] == 30.0 == timeline.end - ORIGIN
    assert [at for at, value in up.items() if value == 0.0] == [5.0 * n for n in range(7, 18)]
    assert all(len(seen) == 1 for at, seen in samples.items() if at - ORIGIN > 30)


def test_nobody_is_scraped_between_an_end_and_a_restart(tmp_path: Path) -> None:
    again = [events.RunStarted(time=900.0, run="r", max_steps=60, step=30)]
    again += [events.StepEnded(time=900.0 + n, step=30 + n) for n in range(1, 11)]
    timeline, samples = replayed(tmp_path / "x.om", [*some_run(), *again])
    times = [at - ORIGIN for at in sorted(samples)]
    assert [(a, b) for a, b in itertools.pairwise(times) if b - a > 5] == [(35.0, 400.0)]
    assert timeline.step_at(ORIGIN + 200) == 30
    assert timeline.step_at(ORIGIN + 410) == 40


def test_steps_that_are_made_again_count_once(tmp_path: Path) -> None:
    """Killed at step 30, resumed from the checkpoint of step 20: the time in between shows what a scrape had shown."""
    again = [dataclasses.replace(event, time=event.time + 400) for event in some_run()[1 + 2 * 20 :]]
    taken_up = events.RunStarted(time=900.0, run="r", max_steps=30, step=20)
    _, samples = replayed(tmp_path / "x.om", [*some_run()[:-1], taken_up, *again])
    names = ("llm_training_tokens_total", "llm_training_observed_loss_count")
    told = {
        at - ORIGIN: [seen.get((name, *LABELS.items(), ("run", "r"))) for name in names] for at, seen in samples.items()
    }
    assert told[25.0] == [2500, 24]
    assert told[405.0] == [2000, 19]
    assert told[max(told)] == [3000, 29], "29 of 30 losses are finite"


@pytest.mark.parametrize("origin", [ORIGIN, None])
def test_a_silence_of_months_is_cut_short(tmp_path: Path, origin: float | None) -> None:
    """As of a clock that was wrong for a moment: a few bytes of a journal are not hundreds of millions of samples."""
    later = 200 * 86_400.0
    found = [*some_run()[:21], *(dataclasses.replace(event, time=event.time + later) for event in some_run()[21:])]
    with OpenMetricsWriter(tmp_path / "x.om") as writer:
        timeline = Replay(writer, interval=5.0, origin=origin).run(found, name="r", state=RunState(), labels=LABELS)
        times = sorted({float(line.split()[-1]) for line in _lines(writer)})
    silence = LONGEST_SILENCE if origin is not None else later
    assert timeline.end - timeline.start == pytest.approx(silence + 35, abs=15)
    assert len(times) == pytest.approx(LONGEST_SILENCE / 5, rel=0.01)
    assert (timeline.step_at(timeline.start + 3600), timeline.step_at(timeline.end)) == (10, 30)


def _lines(writer: OpenMetricsWriter) -> list[str]:
    writer.finish()
    return [line for line in writer.path.read_text().splitlines() if line.startswith("up{")]


def test_between_a_kill_and_a_restart_the_target_is_down(tmp_path: Path) -> None:
    again = [events.RunStarted(time=900.0, run="r", step=30), events.StepEnded(time=901.0, step=31)]
    _, samples = replayed(tmp_path / "x.om", [*some_run()[:-1], *again])
    assert {seen["up", *LABELS.items()] for at, seen in samples.items() if 40 < at - ORIGIN < 395} == {0.0}
    assert len(samples) == 82


def test_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), OpenMetricsWriter(tmp_path / "x.om") as writer:
        writer.add(series("x", "gauge", {}, 1.0), 1.0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
