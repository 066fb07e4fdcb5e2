"""The committed JSON is what the generator makes, thresholds are the alerts', and mistakes stop the generator."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generate as generate_command
import pytest
import yaml
from generator import facts, family, style
from generator.facts import GeneratorError
from generator.model import Dashboard, Panel, Target
from generator.run import layout as run
from generator.style import chart
from grafana_files import GRAFANA


def generate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GRAFANA / "generate.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_no_drift(tmp_path: Path) -> None:
    done = generate("--check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_finds_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate_command, "DASHBOARDS", tmp_path)
    (tmp_path / "gone.json").write_text("{}", encoding="utf-8")
    assert generate_command.main(["--check"]) == 1
    differ = sorted(["gone.json", *generate_command.FILES])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        f"grafana/dashboards/{name}" for name in differ
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["gone.json"], "--check writes nothing"
    assert generate_command.main([]) == 0
    assert {file.name for file in tmp_path.iterdir()} == set(generate_command.FILES)
    assert generate_command.main(["--check"]) == 0


def test_the_command_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(generate_command, "DASHBOARDS", tmp_path)
    monkeypatch.setattr(generate_command, "FILES", {"test.json": lambda: board(panel(expr="nonsense"))})
    assert generate_command.main([]) == 2
    message = capsys.readouterr().err
    assert message.startswith("generate.py: panel 'Loss': found metric 'nonsense', allowed: ")
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def panel(**changes: Any) -> Panel:
    values: dict[str, Any] = {"id": 1, "title": "Loss", "description": "Good: falls.", "grid": (0, 0, 12, 8)}
    values.update(changes)
    return chart(targets=[Target(values.pop("expr", "llm_training_loss"))], **values)


def board(*panels: Panel) -> Dashboard:
    return Dashboard("test", "Test", "", panels, [family.DATA_SOURCE], [], [])


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ([panel(expr="llm_training_los")], "metric 'llm_training_los', allowed.*near: llm_training_loss"),
        ([panel(), panel(title="Other", grid=(12, 0, 12, 8))], r"ids \[1, 1\], allowed: each once"),
        ([panel(), panel(id=2, title="Other", grid=(11, 7, 12, 8))], r"'Loss' and 'Other' overlap at \(11, 7\)"),
        ([panel(grid=(13, 0, 12, 8))], "grid .* allowed: 24 columns"),
        ([panel(expr='llm_training_loss{run="$run"}')], "references to run, allowed: its variables"),
        ([panel(runbooks=["LossRizing"])], "alert 'LossRizing', allowed: .*LossRising"),
    ],
)
def test_mistakes_are_found(panels: list[Panel], message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        board(*panels).json()


def test_a_good_dashboard_is_made() -> None:
    made = board(panel(), panel(id=2, title="Other", grid=(12, 0, 12, 8))).json()
    assert [p["targets"][0]["refId"] for p in made["panels"]] == ["A", "A"]
    assert made["panels"][0]["description"] == "Good: falls.\n\nMetric: `llm_training_loss`"


# -- thresholds ----------------------------------------------------------------------------------------------------


def gpu_rule(severity: str) -> dict[str, Any]:
    rules = yaml.safe_load((facts.ALERT_RULES / "gpu.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    (rule,) = (r for r in rules if r["alert"] == "GpuMemoryHigh" and r["labels"]["severity"] == severity)
    return dict(rule)


@pytest.mark.parametrize("title", ["GPU memory", "GPU memory per device"])
def test_gpu_memory_thresholds_are_the_alerts(title: str) -> None:
    """Read independently of the generator: the last number of the rule's expression."""
    committed = json.loads((GRAFANA / "dashboards" / "training.json").read_text(encoding="utf-8"))
    (found,) = (p for p in committed["panels"] if p["title"] == title)
    steps = found["fieldConfig"]["defaults"]["thresholds"]["steps"]
    limits = [float(gpu_rule(severity)["expr"].split(">")[-1]) for severity in ("warning", "critical")]
    assert [step["value"] for step in steps] == [None, *limits]
    assert [step["color"] for step in steps[1:]] == [style.LOOK, style.ACT]


def test_the_alert_line_of_the_loss_is_the_alerts() -> None:
    committed = (GRAFANA / "dashboards" / "training.json").read_text(encoding="utf-8")
    drawn = re.search(r'"(\d\.\d+) \* max by \(run\) \(llm_training_loss_best', committed)
    rules = yaml.safe_load((facts.ALERT_RULES / "loss.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    rising = next(r["expr"] for r in rules if r["alert"] == "LossRising")
    assert drawn is not None
    limit = re.search(r"loss_rise_ratio\) > ([\d.]+)", rising)
    assert limit is not None
    assert float(drawn[1]) == pytest.approx(1 + float(limit[1]))


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of alert rules of our own."""
    monkeypatch.setattr(facts, "ALERT_RULES", tmp_path)
    facts.alerts.cache_clear()
    yield tmp_path
    facts.alerts.cache_clear()


def write_rule(folder: Path, expr: str) -> None:
    rule = {"alert": "A", "expr": expr, "labels": {"severity": "warning"}, "annotations": {"summary": "Bad."}}
    (folder / "a.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": [rule]}]}), encoding="utf-8")


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("max by (g) (used) / max by (g) (m) > 0.90", 0.9),
        ('m{state=~"a|b"} >= 12 and other > 3', 12.0),
        ("(m < 0.5) and n", 0.5),
    ],
)
def test_threshold(rules: Path, expr: str, expected: float) -> None:
    write_rule(rules, expr)
    assert facts.threshold("A", "warning", "m") == expected


@pytest.mark.parametrize("expr", ["m > 1 or m > 2", "m > other", "my_m > 1", "m_total > 1", "m > 5m"])
def test_no_single_threshold(rules: Path, expr: str) -> None:
    write_rule(rules, expr)
    with pytest.raises(GeneratorError, match=r"a.yml: alert A \(warning\): found .*threshold of m, allowed: one"):
        facts.threshold("A", "warning", "m")


def test_all_thresholds(rules: Path) -> None:
    write_rule(rules, "(m > 0.4 and n > 6) or avg(avg_over_time(m{s='a'}[5m])) > 0.1 or m < on (run) 2 * n")
    assert facts.thresholds("A", "warning", "m") == (0.1, 0.4)


def test_factor(rules: Path) -> None:
    write_rule(rules, 'm > on (run) 0.5 * max by (run) (n{bound="upper"}) or m > 9 + 20 * a:b:mean or 3 * n_total > 1')
    assert facts.factor("A", "warning", "n") == 0.5
    assert facts.factor("A", "warning", "a:b:mean") == 20
    with pytest.raises(GeneratorError, match="found no factor of m, allowed: one"):
        facts.factor("A", "warning", "m")


def test_a_part_of_a_rule(rules: Path) -> None:
    write_rule(rules, "predict_linear(m[15m], 4 * 3600) > n")
    assert facts.part("A", "warning", r"(\d+) \* 3600")[1] == "4"
    with pytest.raises(GeneratorError, match="found nothing that matches deriv, allowed: one"):
        facts.part("A", "warning", "deriv")


def test_a_moved_threshold_moves_the_panel(rules: Path) -> None:
    """The generator copies no number."""
    for file in sorted((facts.ROOT / "alerts" / "rules").glob("*.yml")):
        text = file.read_text(encoding="utf-8").replace("> 0.97", "> 0.96")
        (rules / file.name).write_text(text, encoding="utf-8")
    text = run.dashboard().text()
    assert '"value": 0.96' in text
    assert "critical above 96%" in text


def test_every_alert_has_its_words() -> None:
    (found,) = (p for p in run.dashboard().json()["panels"] if p["title"] == "Firing alerts")
    (meaning,) = (o for o in found["fieldConfig"]["overrides"] if o["matcher"]["options"] == "Meaning")
    (words,) = (p["value"][0]["options"] for p in meaning["properties"] if p["id"] == "mappings")
    for alert in facts.alerts():
        text = words[f"{alert.name}/{alert.severity}"]["text"]
        assert text == (alert.summary if alert.severity != "none" else "No alert of this run is firing.")


def test_an_incomplete_rule_is_one_clear_message(rules: Path) -> None:
    rule = {"alert": "A", "expr": "m > 1", "labels": {"severity": "warning"}, "annotations": {}}
    (rules / "a.yml").write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": [rule]}]}), encoding="utf-8")
    with pytest.raises(GeneratorError, match=r"a.yml: alert A: key 'summary' is missing"):
        facts.alerts()


def test_an_unreadable_rules_file_is_one_clear_message(rules: Path) -> None:
    (rules / "bad.yml").write_text("groups: [", encoding="utf-8")
    with pytest.raises(GeneratorError, match=r"bad.yml: not YAML"):
        facts.alerts()
