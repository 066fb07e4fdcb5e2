"""Names, settings and texts of every kind, from the training loop to the page, to Prometheus, to files and back."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.request
from pathlib import Path

import any_events
import pytest
from any_events import ODD_TEXTS
from faults_world import Watch, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from training_exporter import Monitor, events
from training_exporter.backtest.replay import label_of
from training_exporter.families import RUN_FAMILIES, collect
from training_exporter.journal import JOURNAL_NAME, JournalWriter, read
from training_exporter.labels import MAX_BYTES, run_label
from training_exporter.sinks.collectors import registry_of
from training_exporter.sinks.openmetrics import OpenMetricsWriter, Replay
from training_exporter.sources.files import Record
from training_exporter.stack.servers import Stack
from training_exporter.state import RunState
from training_exporter.targets import TargetRegistration, target_file


def told(name: str, more: str = "") -> list[events.Event]:
    """A run that carries the text wherever it can carry one."""
    return [
        events.RunStarted(
            time=1000.0, run=name, max_steps=2, settings={"base_model": name, "gpu": more, "dataset": more, more: name}
        ),
        events.StepEnded(time=1001.0, step=1, duration_seconds=1.0, tokens=10),
        events.LossLogged(time=1001.0, step=1, loss=2.0),
        events.CheckpointSaved(time=1001.0, step=1, path=name),
        events.FaultInjected(time=1001.0, sign=name, step=1),
        events.TextScored(
            time=1002.0, step=1, stage="final", scores={more: 1.0, "action": 0.5}, texts=1,
            samples=(events.TextSample(name, more),),
        ),
        events.OutOfMemory(time=1002.0, step=1, message=more),
        events.RunEnded(time=1003.0, state="failed", reason=name),
    ]  # fmt: skip


def state_of(found: list[events.Event]) -> RunState:
    state = RunState()
    for event in found:
        state.apply(event)
    return state


def registry(found: list[events.Event]) -> CollectorRegistry:
    label = run_label(found[0].run)  # type: ignore[attr-defined]
    return registry_of([("run", lambda: collect(RUN_FAMILIES, state_of(found), {"run": label}))])


@settings(max_examples=40)
@given(any_events.texts, any_events.texts)
def test_both_formats_of_the_page_parse_and_no_label_is_too_long(name: str, more: str) -> None:
    found = told(name, more)
    for text, parse in (
        (generate_latest(registry(found)).decode(), parse_text),
        (openmetrics.generate_latest(registry(found)).decode(), parse_openmetrics),
    ):
        families = list(parse(text))
        labels = [sample.labels for family in families for sample in family.samples]
        assert {each["run"] for each in labels if "run" in each} == {run_label(name)}
        assert max(len(value.encode()) for each in labels for value in each.values()) <= MAX_BYTES + len("…-12345678")
        assert {"llm_training_run", "llm_training_loss", "llm_training_text_sample"} <= {
            family.name.removesuffix("_info") for family in families
        }


@settings(max_examples=100)
@given(st.lists(any_events.texts, min_size=2, max_size=2, unique=True))
def test_two_names_stay_two(names: list[str]) -> None:
    first, second = names
    assert run_label(first) != run_label(second)
    assert target_file(Path("/t"), first) != target_file(Path("/t"), second)
    for name in names:
        assert run_label(run_label(name)) == run_label(name), "a label is the name that it stands for"


@settings(max_examples=40)
@given(any_events.texts, any_events.texts)
def test_the_journal_gives_back_what_was_told(tmp_path_factory: pytest.TempPathFactory, name: str, more: str) -> None:
    path = tmp_path_factory.mktemp("journal") / JOURNAL_NAME
    writer = JournalWriter(path)
    found = told(name, more)
    for event in found:
        writer.put(event)
    writer.close()
    assert list(read(path)) == found
    assert list(Record(path, "journal", "r").events()) == found


@settings(max_examples=40)
@given(any_events.texts)
def test_the_file_for_prometheus_stays_in_its_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("targets")
    registration = TargetRegistration(folder / "new", name, "127.0.0.1", 9401)
    registration.open()
    (file,) = (folder / "new").iterdir()
    assert file.suffix == ".json"
    assert file.name.isascii()
    assert json.loads(file.read_text()) == [{"targets": ["127.0.0.1:9401"]}]
    registration.close()
    assert not file.exists()


@settings(max_examples=30)
@given(any_events.texts, any_events.texts)
def test_a_past_run_of_any_name_is_openmetrics(tmp_path_factory: pytest.TempPathFactory, name: str, more: str) -> None:
    path = tmp_path_factory.mktemp("past") / "x.om"
    # This parser takes histograms of one time only.
    found = [event for event in told(name, more) if not isinstance(event, events.StepEnded | events.LossLogged)]
    names: dict[str, int] = {}
    labels = [label_of(found, Record(path, "journal", "r"), names) for _ in range(3)]
    assert len(set(labels)) == 3
    with OpenMetricsWriter(path) as writer:
        for label in labels:
            Replay(writer, interval=5.0).run(found, name=label, state=RunState(), labels={"instance": label})
    families = list(parse_openmetrics(path.read_bytes().decode()))
    runs = {sample.labels["run"] for family in families for sample in family.samples if family.name != "up"}
    assert runs == set(labels)


# -- on a real Prometheus -------------------------------------------------------------------------------------------


def test_prometheus_scrapes_runs_of_any_name_and_its_rules_speak_of_them(tmp_path: Path) -> None:
    """With the shipped limits, and all alert rules and their texts: each run fails, and is said to have failed."""
    targets = tmp_path / "targets"
    monitors = [
        Monitor(name, output_dir=tmp_path / str(n), port=0, gpu=False, linger_seconds=0, targets_dir=targets)
        for n, name in enumerate(ODD_TEXTS)
    ]
    with Stack(tmp_path / "logs") as stack:
        watch = Watch(stack, tmp_path, rules=True)
        watch.start()
        for monitor in monitors:
            shift = time.time() - 1003.0
            for event in told(monitor.run, monitor.run):
                monitor.emit(dataclasses.replace(event, time=event.time + shift))
            page = urllib.request.urlopen(monitor.url.removesuffix("metrics"), timeout=10).read().decode()
            assert "training-exporter" in page
        labels = {run_label(name) for name in ODD_TEXTS}

        def firing() -> set[str]:
            found = watch.query('ALERTS{alertstate="firing",alertname="RunFailed"}')
            return {metric["run"] for metric, _ in found}

        assert wait_until(lambda: firing() == labels), labels - firing()
        assert watch.query("up == 0") == []
        assert {metric["run"] for metric, _ in watch.query("llm_training_run_info")} == labels
        assert len(watch.query("llm_training_text_sample_info")) == len(ODD_TEXTS)
        rules = [rule for group in watch.get("/api/v1/rules")["groups"] for rule in group["rules"]]
        assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"] == []
        texts = [alert["annotations"]["description"] for alert in watch.get("/api/v1/alerts")["alerts"]]
        assert texts
        assert [text for text in texts if "error executing template" in text or "<error" in text] == []
    for monitor in monitors:
        assert monitor.errors == {}
        monitor.close()
