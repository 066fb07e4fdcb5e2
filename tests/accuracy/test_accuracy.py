"""The scorer says what the issue's own one says; labels are checked; the page is the same for the same results."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import accuracy_report
import altered_runs
import labelled_runs
import pytest
from alterations import ALTERATIONS, Alteration, Log
from run_labels import LABELS_FILE, Curve, Label, LabelError, read_curve, read_labels, true_anyway, write_labels
from run_scores import by_sign, judge, score

from training_exporter import journal
from training_exporter.events import FaultInjected, LossLogged, RunStarted, StepEnded

SHARED = accuracy_report.SHARED
SCRIPT = Path(labelled_runs.__file__)
LABEL = {"kind": "nan", "onset_step": 50, "max_steps": 100, "signs": ["loss_nan"], "why": "overflow"}

#: Alerts that come and go, so that a scorer has all cases to judge: every run gets some, by its number.
SIGNS = ("loss_rising", "loss_nan", "early_plateau", "val_gap", "initial_perplexity", "high_perplexity", "loss_spike",
         "throughput_drop", "lr_off_schedule", "val_diverging", "slow_first_epoch", "loss_collapsed")  # fmt: skip


def some_alerts(labels: dict[str, Any]) -> dict[str, Any]:
    """A backtest's report with alerts that are sometimes right, early or wrong."""
    runs = []
    for number, (run, label) in enumerate(sorted(labels.items())):
        steps = label["max_steps"]
        onset = label["onset_step"] or 1
        alerts = [
            {"sign": SIGNS[(number + 5 * each) % len(SIGNS)], "step": step, "severity": severity}
            for each, (step, severity) in enumerate(
                [(steps // 3, "warning"), (steps // 2, "info"), (max(1, onset - 1), "critical"), (onset, "warning")]
            )
        ][: number % 5]
        if number % 3 == 0 and label.get("signs"):
            alerts.append({"sign": label["signs"][0], "step": onset + steps // 20, "severity": "critical"})
        runs.append({"run": run, "source": f"x/{run}/trainer_state.json", "max_steps": steps, "alerts": alerts})
    return {"runs": runs, "errors": []}


@pytest.mark.parametrize("name", ["runs", "wild"])
def test_the_scorer_gives_the_figures_of_the_issues_own_one(name: str, tmp_path: Path) -> None:
    script, folder = SHARED / "score.py", SHARED / name
    if not (script.exists() and (folder / LABELS_FILE).exists()):
        pytest.skip(f"{script} and {folder} are not on this machine")
    report = some_alerts(json.loads((folder / LABELS_FILE).read_text()))
    (tmp_path / "alerts.json").write_text(json.dumps(report))
    told = subprocess.run(
        [sys.executable, script, folder, tmp_path / "alerts.json"], capture_output=True, text=True, check=True
    ).stdout
    alerts = {Path(run["source"]).parent.name: run["alerts"] for run in report["runs"]}
    labels = read_labels(folder / LABELS_FILE)
    judged = [judge(run, label, read_curve(folder / run), alerts[run]) for run, label in labels.items()]
    verdicts = [verdict for verdict in judged if verdict is not None]
    s = score(verdicts)
    assert s.recall is not None
    assert s.precision is not None
    assert 0 < s.recall < 1
    assert s.healthy_false > 0
    assert s.ill_false > 0
    assert s.median_delay is not None
    assert told.splitlines()[-1] == (
        f"recall {s.found}/{s.ill} = {s.recall:.3f}; median delay {s.median_delay:.3f} of the run; "
        f"healthy runs with a false alarm {s.healthy_false}/{s.healthy}; sick runs with an early false alarm "
        f"{s.ill_false}/{s.ill}; precision {s.precision:.3f}"
    )
    kinds: dict[str, list[bool]] = {}
    for verdict in verdicts:
        if verdict.ill:
            kinds.setdefault(verdict.label.kind, []).append(verdict.found)
    ours = [[kind, f"{sum(found)}/{len(found)}"] for kind, found in sorted(kinds.items())]
    assert [line.split() for line in told.splitlines()[:-1]] == ours


def falling(steps: int = 100, epochs: float = 3) -> Curve:
    losses = [(step, epochs * step / steps, 0.8 + 1.2 * math.exp(-6 * step / steps)) for step in range(1, steps + 1)]
    return Curve(steps, losses, [(steps, 0.85)])


def alert(sign: str, step: int, severity: str = "warning") -> dict[str, Any]:
    return {"sign": sign, "step": step, "severity": severity}


def label(signs: set[str] | None, onset: int | None = None, **more: Any) -> Label:
    return Label("x", None if signs is None else frozenset(signs), onset, 100, "", **more)


def test_a_fault_is_found_at_its_onset_and_an_earlier_alert_is_a_false_alarm() -> None:
    at = judge("r", label({"loss_nan"}, 50), falling(), [alert("loss_nan", 50)])
    before = judge("r", label({"loss_nan"}, 50), falling(), [alert("loss_nan", 49)])
    assert (at.found, at.false, at.delay) == (True, (), 0.0)
    assert (before.found, len(before.false), before.delay) == (False, 1, None)
    guessed = judge("r", label({"loss_nan"}, 50, read=True), falling(), [alert("loss_nan", 40)])
    assert (guessed.found, guessed.false, guessed.delay) == (True, (), 0.0)


def test_a_healthy_run_has_a_false_alarm_unless_it_is_info_or_true_or_forgiven() -> None:
    healthy = label(set())
    assert judge("r", healthy, falling(), [alert("loss_rising", 30)]).false
    assert not judge("r", healthy, falling(), [alert("loss_rising", 30, "info")]).false
    assert not judge("r", label(set(), forgiven=frozenset({"loss_rising"})), falling(), [alert("loss_rising", 3)]).false
    high = Curve(100, [(step, step / 50, 3.4) for step in range(1, 101)])
    assert true_anyway(high) == {"initial_perplexity", "high_perplexity", "slow_first_epoch"}
    assert not judge("r", healthy, high, [alert("initial_perplexity", 3)]).false
    assert judge("r", label(None), falling(), [alert("loss_rising", 30)]) is None


def test_the_signs_of_a_set_count_each_for_itself() -> None:
    verdicts = [
        judge("a", label({"loss_nan", "loss_rising"}, 50), falling(), [alert("loss_nan", 60), alert("val_gap", 3)]),
        judge("b", label({"loss_nan"}, 50), falling(), []),
        judge("c", label(set()), falling(), [alert("loss_nan", 60)]),
    ]
    told = {s.sign: (s.labelled, s.fired, s.false, s.median_delay) for s in by_sign(verdicts)}
    assert told == {"loss_nan": (2, 1, 1, 0.1), "loss_rising": (1, 0, 0, None), "val_gap": (0, 0, 1, None)}


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {"a": Label("nan", frozenset({"loss_nan"}), 50, 100, "overflow"),
               "b": Label("healthy", frozenset(), None, 90, "nothing injected")}  # fmt: skip
    write_labels(tmp_path / LABELS_FILE, written)
    assert json.loads((tmp_path / LABELS_FILE).read_text())["a"] == LABEL
    assert read_labels(tmp_path / LABELS_FILE) == written


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"onset_step": "soon"}, "r1: onset_step: found 'soon'; allowed: a step, or null"),
        ({"max_steps": None}, "r1: max_steps: found None"),
        ({"signs": "loss_nan"}, "r1: signs: found 'loss_nan'; allowed: a list of signs"),
    ],
)
def test_a_wrong_label_is_told_with_its_run_and_key(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / LABELS_FILE
    path.write_text(json.dumps({"r1": LABEL | change}))
    with pytest.raises(LabelError, match=re.escape(told)):
        read_labels(path)


def test_an_unknown_word_of_a_reader_is_told(tmp_path: Path) -> None:
    path = tmp_path / LABELS_FILE
    path.write_text(json.dumps({"w1": {"label": ["odd"], "onset_step": None, "max_steps": 9, "why": ""}}))
    with pytest.raises(LabelError, match=r"w1: label: found \['odd'\]; allowed: .*spiky"):
        read_labels(path)


# -- labelled runs of our own -----------------------------------------------------------------------------------------


def test_a_plan_covers_every_fault_with_settings_of_its_own() -> None:
    pytest.importorskip("torch")
    from trading_llm.inject import FAULTS, parse

    plans = labelled_runs.plans(2, seed=1)
    assert plans == labelled_runs.plans(2, seed=1)
    assert len({plan.name for plan in plans}) == len(plans)
    assert len({(plan.options, plan.data_seed) for plan in plans}) == len(plans)
    for sign in set(FAULTS) - labelled_runs.LEFT_OUT:
        assert sum(plan.fault == sign for plan in plans) == 2
    assert sum(plan.fault is None for plan in plans) == 2 * labelled_runs.HEALTHY_PER_ROUND
    for plan in plans:
        if plan.fault:
            assert parse(plan.options[plan.options.index("--inject") + 1]).fault.sign == plan.fault
    assert {plan.options for plan in plans}.isdisjoint(plan.options for plan in labelled_runs.plans(2, seed=2))


def test_the_onset_comes_from_the_journal_and_a_missing_fault_is_no_label() -> None:
    plan = labelled_runs.Plan("x", "loss_nan", "overflow", (), 1, 1)
    events = [RunStarted(time=1.0, run="x", max_steps=90), FaultInjected(time=2.0, sign="loss_nan", step=41)]
    assert labelled_runs.label_of(plan, events) == Label("loss_nan", frozenset({"loss_nan"}), 41, 90, "overflow")
    dying = labelled_runs.Plan("x", "oom", "memory", (), 1, 1)
    last = FaultInjected(time=2.0, sign="oom", step=41)
    assert labelled_runs.label_of(dying, [events[0], last]).onset_step == 40  # the last step that was completed
    with pytest.raises(ValueError, match="the fault None, not of loss_nan"):
        labelled_runs.label_of(plan, events[:1])


def test_the_pace_of_a_run_on_a_busy_machine_proves_nothing(tmp_path: Path) -> None:
    plan = labelled_runs.Plan("x", None, "nothing injected", (), 1, 1)
    busy = labelled_runs.label_of(plan, [RunStarted(time=1.0, run="x", max_steps=90)], core_share=0.4)
    assert busy.forgiven == {"throughput_drop"}
    assert "40% of a core" in busy.why
    write_labels(tmp_path / LABELS_FILE, {"x": busy})
    assert read_labels(tmp_path / LABELS_FILE) == {"x": busy}
    quiet = labelled_runs.label_of(plan, [RunStarted(time=1.0, run="x", max_steps=90)], core_share=0.95)
    assert quiet.forgiven == frozenset()


def test_a_slowed_clock_changes_times_by_one_factor_and_nothing_else() -> None:
    events = [RunStarted(time=5.0, run="x", max_steps=2)]
    for step, seconds in ((1, 0.4), (2, 0.5), (3, 1.5)):
        events.append(StepEnded(time=5.0 + step, step=step, duration_seconds=seconds, data_wait_seconds=seconds / 2))
        events.append(LossLogged(time=5.0 + step, step=step, loss=2.0 / step))
    slow = accuracy_report.slowed(events, step_seconds=2.0)  # 0.5 s -> 2 s
    assert [event.time - slow[0].time for event in slow] == [0, 4, 4, 8, 8, 12, 12]
    assert [e.duration_seconds for e in slow if isinstance(e, StepEnded)] == [1.6, 2.0, 6.0]
    assert [e.data_wait_seconds for e in slow if isinstance(e, StepEnded)] == [0.8, 1.0, 3.0]
    assert [e.loss for e in slow if isinstance(e, LossLogged)] == [2.0, 1.0, 2.0 / 3]


# -- the page ---------------------------------------------------------------------------------------------------------


def finished(folder: Path, run: str, loss: list[float], fault: int | None = None) -> None:
    """A journal as a training writes it."""
    writer = journal.JournalWriter(folder / run / journal.JOURNAL_NAME)
    start = 1_700_000_000.0
    writer.put(RunStarted(time=start, run=run, max_steps=len(loss), num_epochs=1.0, logging_steps=1))
    for step, value in enumerate(loss, 1):
        if step == fault:
            writer.put(FaultInjected(time=start + step - 0.5, sign="loss_nan", step=step))
        writer.put(StepEnded(time=start + step, step=step, epoch=step / len(loss), duration_seconds=1.0))
        writer.put(LossLogged(time=start + step, step=step, epoch=step / len(loss), loss=value))
    writer.close()


def test_the_page_tells_what_prometheus_found_and_is_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "runs"
    curve = [0.8 + 1.4 * math.exp(-step / 25) + 0.02 * math.sin(step) for step in range(120)]
    finished(own, "ill", [*curve[:60], *[math.nan] * 60], fault=61)
    write_labels(own / LABELS_FILE, {"ill": Label("loss_nan", frozenset({"loss_nan"}), 61, 120, "overflow")})
    page = tmp_path / "accuracy.md"
    command = ["--own", str(own), "--shared", str(tmp_path / "none"), "--output", str(page)]
    assert accuracy_report.main(command) == 0
    text = page.read_text()
    assert "| loss_nan | 1 of 1 (100%) |" in text
    assert "| training-exporter | not measured |" in text
    assert "What the tool cannot see" in text
    assert accuracy_report.main([*command, "--check"]) == 0
    page.write_text(text.replace("1 of 1", "2 of 2"))
    assert accuracy_report.main([*command, "--check"]) == 1
    assert page.read_text() != text  # --check writes nothing
    capsys.readouterr()


def test_no_runs_at_all_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy_report.main(["--own", str(tmp_path), "--shared", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- altered runs -----------------------------------------------------------------------------------------------------


def healthy_log() -> dict[str, Any]:
    """A log that has all that an alteration can change."""
    history: list[dict[str, Any]] = []
    for step in range(1, 201):
        loss = 0.7 + 1.6 * math.exp(-step / 30) + 0.02 * math.sin(step)
        rate = 1e-3 * (step / 20 if step < 20 else (200 - step) / 180)
        entry = {"step": step, "epoch": step / 100, "wall_time": 1.7e9 + 2 * step, "tokens_per_second": 900.0}
        history.append({**entry, "loss": loss, "learning_rate": rate, "grad_norm": 1.0})
        if step % 20 == 0:
            history.append({"step": step, "epoch": step / 100, "wall_time": 1.7e9 + 2 * step, "eval_loss": 1.1 * loss})
    return {"max_steps": 200, "learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_ratio": 0.1,
            "logging_steps": 1, "log_history": history}  # fmt: skip


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=lambda alteration: alteration.name)
def test_an_alteration_changes_what_comes_after_its_onset(alteration: Alteration) -> None:
    base = healthy_log()
    log, again = Log(base), Log(base)
    onset = alteration.change(log, Random(3))
    assert onset == alteration.change(again, Random(3))
    assert json.dumps(log.state) == json.dumps(again.state), "the same seed gives the same log"
    assert json.dumps(log.state) != json.dumps(base)
    assert json.dumps(base) == json.dumps(healthy_log()), "the base stays as it is"
    assert onset is None or 1 < onset < 200
    assert onset is None or alteration.signs, "only a fault has an onset"
    kept = [entry for entry in log.entries if entry["step"] < (onset or 0)]
    assert kept == [entry for entry in base["log_history"] if entry["step"] < (onset or 0)]


def test_a_bare_log_is_altered_where_it_can_be(tmp_path: Path) -> None:
    bare = healthy_log()
    keys = {"step", "epoch", "loss"}
    bare["log_history"] = [{k: v for k, v in e.items() if k in keys} for e in bare["log_history"] if "loss" in e]
    altered_runs.make({"bare": bare}, tmp_path)
    labels = read_labels(tmp_path / LABELS_FILE)
    assert "rise_at_once-bare" in labels
    assert not {"half_speed-bare", "overfits-bare", "rate_is_zero-bare", "slow_start-bare"} & labels.keys()
    for run, label in labels.items():
        assert read_curve(tmp_path / run).max_steps == label.max_steps


def test_only_runs_that_are_long_and_healthy_are_altered(tmp_path: Path) -> None:
    curve = [0.8 + 1.4 * math.exp(-step / 25) for step in range(60)]
    for run, losses in {"healthy": curve, "short": curve[:30], "ill": curve, "slowed": curve}.items():
        finished(tmp_path, run, losses)
    well = Label("healthy", frozenset(), None, 60, "")
    write_labels(
        tmp_path / LABELS_FILE,
        {
            "healthy": well,
            "short": well,
            "ill": Label("loss_nan", frozenset({"loss_nan"}), 20, 60, ""),
            "slowed": Label("healthy", frozenset(), None, 60, "", forgiven=frozenset({"throughput_drop"})),
        },
    )
    logs = altered_runs.healthy([tmp_path])
    assert list(logs) == ["healthy"]
    assert Log(logs["healthy"]).timed
    assert len(Log(logs["healthy"]).training) == 60


@pytest.mark.skipif(
    not os.environ.get("LABELLED_RUNS"), reason="trains for some minutes; LABELLED_RUNS=1 runs it, and `make accuracy`"
)
@pytest.mark.timeout(1200)
def test_real_runs_are_made_labelled_and_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    command = [sys.executable, SCRIPT, "--output", out, "--rounds", "1", "--only", "loss_nan", "run_vanished"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    labels = read_labels(out / LABELS_FILE)
    assert {item.kind for item in labels.values()} == {"loss_nan", "run_vanished"}
    assert all(1 < (item.onset_step or 0) < item.max_steps for item in labels.values())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    assert len(before) == 2
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == before
