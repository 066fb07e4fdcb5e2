"""Text quality: the figures are of the last stage that was scored, and the words stand where they are read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from generator.facts import GeneratorError
from generator.text import guide
from grafana_files import GRAFANA, panels
from grafana_live import CRASHED, HEALTHY, Recording
from test_grafana_queries import substitute

from training_exporter import profile
from training_exporter.events import TEXT_STAGES


def ask(recording: Recording, title: str, run: str, ref: str = "A") -> list[dict[str, Any]]:
    """What a panel's query gives at the end of the recording."""
    dashboard = json.loads((GRAFANA / "dashboards" / "text.json").read_text(encoding="utf-8"))
    (panel,) = (panel for panel in panels(dashboard) if panel["title"] == title)
    (target,) = (target for target in panel["targets"] if target["refId"] == ref)
    at = recording.situations[run]
    return recording.instant(substitute(target["expr"], run, recording.ended - at.since), recording.ended)


def value(rows: list[dict[str, Any]]) -> float:
    (row,) = rows
    return float(row["value"][1])


def test_the_figures_are_of_the_last_stage(recording: Recording) -> None:
    """Others are remembered as well."""
    at = recording.situations[HEALTHY]
    scored = recording.instant(
        f'max by (stage, criterion) (last_over_time(llm_training_text_quality_ratio{{run="{HEALTHY}"}}[1h]))', at.until
    )
    last = {r["metric"]["criterion"]: float(r["value"][1]) for r in scored if r["metric"]["stage"] == TEXT_STAGES[-1]}
    assert len(scored) > len(last) > 0
    assert value(ask(recording, "Last scored", HEALTHY)) == len(TEXT_STAGES)
    assert value(ask(recording, "Mean score", HEALTHY)) == pytest.approx(sum(last.values()) / len(last))
    least = profile.default().text_quality[TEXT_STAGES[-1]]
    below = {name: least[name] - score for name, score in last.items() if name in least}
    weakest = max(below, key=lambda name: below[name])
    (row,) = ask(recording, "Furthest below", HEALTHY)
    assert row["metric"]["criterion"] == weakest
    assert float(row["value"][1]) == pytest.approx(-below[weakest])
    assert value(ask(recording, "Criteria below expectation", HEALTHY)) == sum(each > 0.05 for each in below.values())


def test_the_texts_are_there(recording: Recording) -> None:
    rows = ask(recording, "Texts that the model wrote", HEALTHY)
    stages = {row["metric"]["stage"] for row in rows}
    assert len(stages) > 1
    assert TEXT_STAGES[-1] in stages
    assert all(row["metric"]["text"] and row["metric"]["prompt"] for row in rows)


def test_a_run_without_texts_has_none(recording: Recording) -> None:
    """No figure is made up: the panels then say so."""
    for title in ("Last scored", "Criteria below expectation", "Mean score", "Texts that the model wrote"):
        assert ask(recording, title, CRASHED) == []


def test_the_guides_words() -> None:
    assert guide.stage_title("early").startswith("Early Training")
    words = guide.expectations()
    assert words.count("**") == 2 * len(TEXT_STAGES)
    for said in ("coherent but generic explanations", "Some lingering inaccuracies", "Balanced perspective"):
        assert said in words


def test_every_criterion_has_its_words() -> None:
    words = guide.criteria()
    assert set(words) == {name for stage in profile.default().text_quality.values() for name in stage}
    assert all(words.values())


def test_missing_words_are_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guide.md").write_text("# Guide\n", encoding="utf-8")
    monkeypatch.setattr(guide, "GUIDE", tmp_path / "guide.md")
    with pytest.raises(GeneratorError, match=r"guide.md: found no heading 'Early Training'"):
        guide.expectations()
    (tmp_path / "profile.yaml").write_text("text_quality:\n  early:\n    variety: 0.3\n", encoding="utf-8")
    monkeypatch.setattr(guide, "PROFILE", tmp_path / "profile.yaml")
    with pytest.raises(GeneratorError, match=r"profile.yaml: text_quality: variety: found no comment"):
        guide.criteria()
