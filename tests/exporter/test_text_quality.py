"""Scores and samples of generated text: in the run state, on the page, and in a replay, whatever the text is."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from training_exporter import Monitor, events
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.labels import MAX_BYTES, clip
from training_exporter.signals.text import MAX_PROMPT, MAX_SAMPLES, MAX_TEXT
from training_exporter.sinks.openmetrics import OpenMetricsWriter, Replay
from training_exporter.state import RunState


def scored(stage: str = "early", step: int = 20, *texts: str, **scores: float) -> events.TextScored:
    samples = tuple(events.TextSample(f"prompt {n}", text) for n, text in enumerate(texts, 1))
    return events.TextScored(time=1000.0 + step, step=step, stage=stage, scores=scores, texts=8, samples=samples)


def samples(state: RunState) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("llm_training_"), *(v for k, v in sample.labels.items() if k != "run")): sample.value
        for metric in collect(RUN_FAMILIES, state, {"run": "r"})
        for sample in metric.samples
        if "text" in sample.name and "expected" not in sample.name
    }


def state_of(*found: events.Event) -> RunState:
    state = RunState()
    for event in (events.RunStarted(time=1000.0, run="r", max_steps=100), *found):
        state.apply(event)
    return state


def test_scores_of_all_stages_and_texts_of_the_latest() -> None:
    assert samples(state_of()) == {}
    state = state_of(scored("early", 20, "one", coherence=0.4), scored("final", 100, "two", "three", coherence=0.8))
    assert samples(state) == {
        ("text_quality_ratio", "coherence", "early"): 0.4,
        ("text_quality_ratio", "coherence", "final"): 0.8,
        ("text_sample_info", "final", "1", "prompt 1", "two"): 1.0,
        ("text_sample_info", "final", "2", "prompt 2", "three"): 1.0,
    }
    state.apply(scored("early", 20, "again", coherence=0.5))
    assert samples(state)[("text_quality_ratio", "coherence", "early")] == 0.5
    assert ("text_sample_info", "final", "1", "prompt 1", "two") in samples(state)


def test_what_is_kept_is_bounded() -> None:
    many = {f"criterion_{n}": 0.5 for n in range(1000)} | {"Bad Name": 0.5, "": 0.5}
    state = state_of(scored("early", 20, *("x" * 100_000 for _ in range(50)), **many))
    found = samples(state)
    assert len([key for key in found if key[0] == "text_quality_ratio"]) == 20
    texts = [key[-1] for key in found if key[0] == "text_sample_info"]
    assert len(texts) == MAX_SAMPLES
    assert all(len(text) == MAX_TEXT and text.endswith("…") for text in texts)


@given(st.text(max_size=2000), st.sampled_from([MAX_PROMPT, MAX_TEXT]))
def test_any_text_is_clipped_to_what_a_label_may_be(text: str, most: int) -> None:
    short = clip(text, most)
    assert len(short) <= most
    assert len(short.encode()) <= MAX_BYTES + len("…".encode())
    assert "\x00" not in short
    assert "\r" not in short


def test_a_text_that_fits_stays_as_it_is() -> None:
    text = "RSI at 71.3 is overbought.\nSo: SELL – “quoted” \\n 100%"
    assert clip(text, MAX_TEXT) == text
    assert clip("€" * 500, MAX_TEXT) == "€" * (MAX_BYTES // 3) + "…"


HOSTILE = [
    'quotes " and \\ backslash \\n',
    "line\nbreak\r\nand\x00zero\x85\u2028",
    "עברית 日本語 🙂" * 200,
    "\ud800 lone surrogate",
    '{run="x"} 1\n# EOF\nllm_training_loss{run="r"} 0',
    "",
]


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    monitor = Monitor("r", output_dir=tmp_path, port=0, gpu=False, linger_seconds=0)
    yield monitor
    monitor.close()


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_gives_a_page_that_prometheus_reads(monitor: Monitor, text: str) -> None:
    monitor.emit(events.RunStarted(time=1000.0, run="r"))
    monitor.emit(
        events.TextScored(time=1.0, step=1, stage="final", scores={}, samples=(events.TextSample(text, text),))
    )
    page = urllib.request.urlopen(monitor.url, timeout=10).read().decode()
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    (family,) = (f for f in text_string_to_metric_families(page) if f.name == "llm_training_text_sample_info")
    (sample,) = family.samples
    assert sample.labels["text"] == clip(text, MAX_TEXT)
    assert max(len(value.encode()) for value in sample.labels.values()) < 1024, "label_value_length_limit"
    assert monitor.errors == {}


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=700))
def test_any_text_can_be_replayed(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    found = [
        events.RunStarted(time=1000.0, run="r", max_steps=1),
        events.TextScored(time=1001.0, step=1, stage="final", scores={}, samples=(events.TextSample(text, text),)),
        events.RunEnded(time=1002.0, state="completed"),
    ]
    path = tmp_path_factory.mktemp("replay") / "x.om"
    with OpenMetricsWriter(path) as writer:
        Replay(writer, interval=5.0).run(found, name="r", state=RunState(), labels={"job": "training"})
    lines = path.read_bytes().decode().split("\n")
    wanted = clip(text, MAX_TEXT).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert sum(line.startswith("llm_training_text_sample_info{") for line in lines) == 2
    assert all(f'text="{wanted}"' in line for line in lines if line.startswith("llm_training_text_sample_info{"))
