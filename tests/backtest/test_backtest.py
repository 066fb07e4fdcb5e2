"""The command `backtest`: real rules on a real Prometheus over finished runs."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from finished_runs import falling, nan_from, trainer_state

from training_exporter import events
from training_exporter.backtest import replay, rules
from training_exporter.cli import main
from training_exporter.journal import JournalWriter
from training_exporter.sources import files

Captured = pytest.CaptureFixture[str]


def run_json(capsys: Captured, *arguments: str | Path) -> dict[str, Any]:
    assert main(["backtest", *map(str, arguments), "--format", "json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def fired(run: dict[str, Any]) -> set[str]:
    return {alert["alert"] for alert in run["alerts"]}


def own_rules(folder: Path, *alerts: str) -> Path:
    folder.mkdir()
    (folder / "own.yml").write_text("groups:\n- name: own\n  rules:\n" + "".join(f"  - {alert}\n" for alert in alerts))
    return folder


def journal(folder: Path, found: list[events.Event]) -> Path:
    writer = JournalWriter(folder / "journal.jsonl")
    for event in found:
        writer.put(event)
    writer.close()
    return folder / "journal.jsonl"


def steps_of(run: str, steps: int, start: float = 1_700_000_000.0) -> list[events.Event]:
    found: list[events.Event] = [events.RunStarted(time=start, run=run, max_steps=1000)]
    for n in range(1, steps + 1):
        found.append(events.StepEnded(time=start + n, step=n, duration_seconds=1.0))
        found.append(events.LossLogged(time=start + n, step=n, loss=falling(n, 1000)))
    return found


def test_the_report_has_the_promised_form(tmp_path: Path, capsys: Captured) -> None:
    healthy = trainer_state(tmp_path / "runs" / "healthy")
    sick = trainer_state(tmp_path / "runs" / "sick", loss=nan_from(101))
    report = run_json(capsys, tmp_path / "runs")
    assert set(report) == {"runs", "errors"}
    assert report["errors"] == []
    assert [set(run) for run in report["runs"]] == [{"run", "source", "max_steps", "alerts"}] * 2
    assert [(run["run"], run["source"], run["max_steps"]) for run in report["runs"]] == [
        ("healthy", str(healthy), 200), ("sick", str(sick), 200),
    ]  # fmt: skip
    assert report["runs"][0]["alerts"] == []
    # The NaN of step 101 is seen by the next scrape, at most 5 s later.
    nan = [alert for alert in report["runs"][1]["alerts"] if alert["alert"] == "LossNaN"]
    assert [set(alert) for alert in nan] == [{"alert", "sign", "severity", "step", "cleared_step"}]
    assert nan[0] | {"step": 0} == {
        "alert": "LossNaN", "sign": "loss_nan", "severity": "critical", "step": 0, "cleared_step": None,
    }  # fmt: skip
    assert 101 <= nan[0]["step"] <= 106


def test_for_and_keep_firing_for_are_kept(tmp_path: Path, capsys: Captured) -> None:
    # The loss is above 3 from step 50 to 79; a step takes a second, a scrape comes every five.
    path = trainer_state(tmp_path / "r", loss=lambda n, _: 5.0 if 50 <= n < 80 else 2.0)
    folder = own_rules(
        tmp_path / "rules",
        "{alert: AtOnce, expr: llm_training_loss > 3, labels: {sign: a, severity: info}}",
        "{alert: Later, expr: llm_training_loss > 3, for: 20s, labels: {sign: b}}",
        "{alert: TooLate, expr: llm_training_loss > 3, for: 31s}",
        "{alert: Kept, expr: llm_training_loss > 3, keep_firing_for: 60s}",
        "{alert: KeptToTheEnd, expr: llm_training_loss > 3, keep_firing_for: 10m}",
        "{alert: ByLabel, expr: llm_training_loss > 3, labels: {severity: 'of {{ $labels.run }}'}}",
    )
    alerts = {alert["alert"]: alert for alert in run_json(capsys, path, "--rules", folder)["runs"][0]["alerts"]}
    spans = {name: (alert["step"], alert["cleared_step"]) for name, alert in alerts.items()}
    assert spans == {
        "AtOnce": (50, 80), "Later": (70, 80), "Kept": (50, 140), "KeptToTheEnd": (50, None), "ByLabel": (50, 80),
    }  # fmt: skip
    assert (alerts["AtOnce"]["sign"], alerts["AtOnce"]["severity"]) == ("a", "info")
    assert alerts["ByLabel"]["severity"] == "of r"
    assert alerts["Later"]["severity"] is None


def test_a_series_that_goes_is_gone_at_once(tmp_path: Path, capsys: Captured) -> None:
    """As with a live scrape, and not after five minutes: the end of a run leaves no last value behind."""
    path = trainer_state(tmp_path / "r", steps=100, loss=lambda n, _: 5.0 if n > 80 else 2.0)
    folder = own_rules(tmp_path / "rules", "{alert: A, expr: llm_training_loss > 3, for: 40s}")
    assert run_json(capsys, path, "--rules", folder)["runs"][0]["alerts"] == []


def test_recording_rules_of_several_levels(tmp_path: Path, capsys: Captured) -> None:
    path = trainer_state(tmp_path / "r", loss=lambda n, _: float(n))
    folder = own_rules(
        tmp_path / "rules",
        "{alert: A, expr: 'max_over_time(second:loss[20s]) > 100'}",
        "{record: 'second:loss', expr: 'first:loss + 1'}",
        "{record: 'first:loss', expr: max by (run) (llm_training_loss)}",
        "{alert: Shipped, expr: 'run:llm_training_state:active == 1 and on (run) llm_training_loss > 50'}",
    )
    alerts = run_json(capsys, path, "--rules", folder)["runs"][0]["alerts"]
    assert [(alert["alert"], alert["step"]) for alert in alerts] == [("Shipped", 55), ("A", 100)]


def test_a_group_with_an_interval_of_its_own(tmp_path: Path, capsys: Captured) -> None:
    path = trainer_state(tmp_path / "r", loss=lambda n, _: 5.0 if 50 <= n < 130 else 2.0)
    folder = own_rules(tmp_path / "rules", "{alert: A, expr: 'half:loss > 3'}")
    (folder / "slow.yml").write_text(
        "groups:\n- name: slow\n  interval: 30s\n  rules:\n"
        "  - {alert: Slow, expr: llm_training_loss > 3}\n"
        "  - {alert: SlowHeld, expr: llm_training_loss > 3, for: 45s}\n"
        "  - {record: 'half:loss', expr: llm_training_loss}\n"
    )
    alerts = run_json(capsys, path, "--rules", folder)["runs"][0]["alerts"]
    assert [(alert["alert"], alert["step"], alert["cleared_step"]) for alert in alerts] == [
        ("A", 60, 150), ("Slow", 60, 150), ("SlowHeld", 120, 150),
    ]  # fmt: skip


def test_clocks_of_other_years_and_one_name_twice(tmp_path: Path, capsys: Captured) -> None:
    for name, start in (("past", 1_000_000.0), ("future", 8e9)):
        trainer_state(tmp_path / name / "same", start=start, loss=nan_from(60))
    report = run_json(capsys, tmp_path)
    assert [run["run"] for run in report["runs"]] == ["same", "same"]
    first, second = ({key: run[key] for key in ("max_steps", "alerts")} for run in report["runs"])
    assert first == second
    assert first["alerts"]


def test_a_broken_file_is_one_line_and_the_others_go_on(tmp_path: Path, capsys: Captured) -> None:
    trainer_state(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": "x"}]}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_text('{"event": "run_sta')
    foreign = tmp_path / "foreign.bin"
    foreign.write_bytes(b"\x00\x01\x02")
    report = run_json(capsys, tmp_path, foreign)
    assert [run["run"] for run in report["runs"]] == ["good"]
    assert len(report["errors"]) == 3
    for name, what in (("bad", "key 'loss': found 'x'"), ("torn", "line 1"), ("foreign.bin", "allowed: a journal")):
        assert sum(name in line and what in line for line in report["errors"]) == 1
    assert main(["backtest", str(tmp_path), str(foreign)]) == 0
    table = capsys.readouterr().out
    assert table.count("not read: ") == 3


def test_the_table_fits_80_columns(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_state(tmp_path / "sick", loss=nan_from(101))
    trainer_state(tmp_path / "well")
    monkeypatch.chdir(tmp_path)
    assert main(["backtest", "."]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if "LossNaN" in line)
    assert row[1] == "critical"
    assert 101 <= int(row[2]) <= 106
    assert row[3] in {"50%", "51%", "52%", "53%"}
    assert "  no alert" in lines
    assert captured.err == "", "no progress bar where there is no terminal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing"], "nothing: no such file or folder"),
        (["{tmp}"], "no run that can be read in"),
        (["{tmp}/run", "--rules", "{tmp}/nowhere"], "nowhere: no such folder"),
        (["{tmp}/run", "--rules", "{tmp}"], "no rule file in it"),
        (["{tmp}/run", "--rules", "{tmp}/rules"], "rules/own.yml: .*could not parse expression"),
        (["{tmp}/run", "--profile", "{tmp}/none.yml"], "none.yml: cannot be read"),
    ],
)
def test_wrong_input_ends_with_2(tmp_path: Path, capsys: Captured, arguments: list[str], message: str) -> None:
    own_rules(tmp_path / "rules", "{alert: A, expr: 'llm_training_loss >'}")
    if arguments[0] == "{tmp}/run":
        trainer_state(tmp_path / "run")
    assert main(["backtest", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("training-exporter backtest: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_what_a_backtest_cannot_evaluate_is_said(tmp_path: Path, capsys: Captured) -> None:
    path = trainer_state(tmp_path / "r")
    folder = own_rules(
        tmp_path / "rules",
        "{alert: OfAlerts, expr: 'ALERTS > 0'}",
        "{alert: Twice, expr: llm_training_loss + on (run) llm_training_state}",
    )
    assert main(["backtest", str(path), "--rules", str(folder), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert "alert OfAlerts is left out: it reads ALERTS" in captured.err
    errors = json.loads(captured.out)["errors"]
    assert len(errors) == 1
    assert errors[0].startswith("alert Twice: Prometheus cannot evaluate it: ")


# -- the life of a run ----------------------------------------------------------------------------------------------


def lifecycle(tmp_path: Path, found: list[events.Event]) -> list[tuple[str, int]]:
    records, errors = files.find([journal(tmp_path, found)])
    report = replay.backtest(records, rules.load(None))
    assert not errors
    assert not report.errors
    alerts = [(alert.alert, alert.step) for alert in report.runs[0].alerts]
    return [alert for alert in alerts if alert[0].startswith("Run")]


def test_a_run_that_ends_well_leaves_no_alert(tmp_path: Path) -> None:
    found = steps_of("r", 60)
    assert lifecycle(tmp_path, [*found, events.RunEnded(time=found[-1].time, state="completed")]) == []


def test_a_run_that_failed(tmp_path: Path) -> None:
    found = steps_of("r", 60)
    ended = events.RunEnded(time=found[-1].time + 3, state="failed", reason="ValueError: x")
    assert lifecycle(tmp_path, [*found, ended]) == [("RunFailed", 60)]


def test_a_run_that_was_killed_has_vanished(tmp_path: Path) -> None:
    assert lifecycle(tmp_path, steps_of("r", 60)) == [("RunVanished", 60)]


def test_a_run_that_is_still_at_work_has_not(tmp_path: Path) -> None:
    assert lifecycle(tmp_path, steps_of("r", 60, start=time.time() - 90)) == []


def test_a_run_that_was_killed_and_resumed_in_time_has_not(tmp_path: Path) -> None:
    found = steps_of("r", 60)
    after = found[-1].time + 40
    again: list[events.Event] = [events.RunStarted(time=after, run="r", max_steps=1000, step=60)]
    again += [events.StepEnded(time=after + n, step=60 + n, duration_seconds=1.0) for n in range(1, 200)]
    ended = events.RunEnded(time=after + 200, state="completed")
    assert lifecycle(tmp_path, [*found, *again, ended]) == []


def test_a_run_that_stands_still(tmp_path: Path) -> None:
    found = steps_of("r", 60)
    moves = events.StepEnded(time=found[-1].time + 900, step=61, duration_seconds=900.0)
    ended = events.RunEnded(time=moves.time, state="completed")
    assert lifecycle(tmp_path, [*found, moves, ended]) == [("RunStalled", 60)]


def test_a_run_of_days_is_replayed_too(tmp_path: Path, capsys: Captured) -> None:
    path = trainer_state(tmp_path / "r", steps=400, seconds=300.0, loss=nan_from(201))
    started = time.monotonic()
    alerts = run_json(capsys, path)["runs"][0]["alerts"]
    assert [alert["step"] for alert in alerts if alert["alert"] == "LossNaN"] == [201]
    assert time.monotonic() - started < 60


def test_a_clock_that_was_wrong(tmp_path: Path) -> None:
    found = steps_of("r", 3)
    found.append(events.StepEnded(time=found[-1].time + 1e9, step=4))
    records, _ = files.find([journal(tmp_path, found)])
    report = replay.backtest(records, rules.load(None))
    assert not report.runs
    assert "days between its first and its last time, allowed: 366 at most" in report.errors[0]


def test_scores_of_texts_are_replayed(tmp_path: Path, capsys: Captured) -> None:
    def scored(stage: str, step: int, references: float) -> events.TextScored:
        at = 1_700_000_000.0 + step + 0.5
        sample = events.TextSample("rsi_14: 71.3\naction:", 'RSI at "99.9"\x00 is oversold.')
        return events.TextScored(
            time=at, step=step, stage=stage, scores={"references": references}, texts=8, samples=(sample,)
        )

    found = [*steps_of("r", 300)]
    for event in (scored("early", 60, 0.1), scored("middle", 150, 0.1), scored("final", 200, 0.9)):
        found.append(event)
    found.sort(key=lambda event: event.time)
    report = run_json(capsys, journal(tmp_path, found))
    assert report["errors"] == []
    (alert,) = (alert for alert in report["runs"][0]["alerts"] if alert["alert"] == "TextQuality")
    assert (alert["sign"], alert["severity"]) == ("text_quality", "warning")
    assert 150 <= alert["step"] <= 160
    # It is kept firing for a minute after the scores of the last stage.
    assert 260 <= alert["cleared_step"] <= 270
