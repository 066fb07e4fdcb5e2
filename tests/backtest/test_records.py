"""Records of finished runs become the events that a live run would have given, or one clear line."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from finished_runs import START, trainer_state, write
from hypothesis import given, settings
from hypothesis import strategies as st

from training_exporter import events
from training_exporter.events import from_record, to_record
from training_exporter.journal import JournalWriter
from training_exporter.sources import files
from training_exporter.sources.files import Record, RecordError
from training_exporter.state import RunState


def replay(path: Path, seconds_per_step: float = 1.0) -> list[events.Event]:
    records, errors = files.find([path], seconds_per_step)
    assert not errors
    assert len(records) == 1
    return list(records[0].events())


def entry(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "loss": 2.0, **more}


def of(kind: type[Any], found: list[events.Event]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


# -- trainer_state.json ---------------------------------------------------------------------------------------------


def test_a_run_with_times_is_replayed_step_by_step(tmp_path: Path) -> None:
    found = replay(trainer_state(tmp_path / "run-7", steps=20, seconds=3.0, learning_rate=1e-4, warmup_ratio=0.11,
                                 lr_scheduler_type="cosine"))  # fmt: skip
    started = found[0]
    assert isinstance(started, events.RunStarted)
    assert (started.run, started.max_steps, started.num_epochs, started.logging_steps) == ("run-7", 20, 2.0, 1)
    assert (started.lr_scheduler, started.warmup_steps, started.peak_learning_rate) == ("cosine", 3, 1e-4)
    assert started.settings["batch_size"] == "4"
    assert started.time == pytest.approx(START), "the first step took as long as the others"
    steps = of(events.StepEnded, found)
    assert [step.step for step in steps] == list(range(1, 21))
    assert all(step.duration_seconds == pytest.approx(3.0) for step in steps)
    assert [loss.time for loss in of(events.LossLogged, found)] == [START + 3.0 * n for n in range(1, 21)]
    assert found[-1] == events.RunEnded(time=START + 60.0, state="completed")


def test_steps_between_entries_are_spread_over_the_time_between(tmp_path: Path) -> None:
    found = replay(trainer_state(tmp_path, steps=40, seconds=2.0, every=10))
    assert [step.step for step in of(events.StepEnded, found)] == list(range(1, 41))
    assert of(events.StepEnded, found)[14].time == pytest.approx(START + 30.0)
    assert [(loss.step, loss.steps) for loss in of(events.LossLogged, found)] == [
        (10, 10),
        (20, 10),
        (30, 10),
        (40, 10),
    ]


def test_without_times_a_step_takes_what_is_stated(tmp_path: Path) -> None:
    path = trainer_state(tmp_path, steps=50, seconds=None, every=5)
    found = replay(path, seconds_per_step=7.0)
    losses = of(events.LossLogged, found)
    assert {round(b.time - a.time, 3) for a, b in itertools.pairwise(losses)} == {35.0}
    assert found[-1].time == pytest.approx(path.stat().st_mtime), "the end of the run is the file's date"
    assert all(step.duration_seconds is None for step in of(events.StepEnded, found)), "nobody measured it"


def test_speed_gives_tokens(tmp_path: Path) -> None:
    history = [entry(n, wall_time=START + 2 * n, tokens_per_second=500.0) for n in range(1, 31)]
    state = RunState()
    for event in replay(write(tmp_path, {"max_steps": 30, "log_history": history})):
        state.apply(event)
    assert state.tokens == 30_000
    assert state.tokens_per_second == pytest.approx(500.0)


def test_tokens_seen_give_tokens(tmp_path: Path) -> None:
    history = [entry(n, wall_time=START + 2 * n, num_input_tokens_seen=64 * n) for n in range(5, 31, 5)]
    steps = of(events.StepEnded, replay(write(tmp_path, {"max_steps": 30, "log_history": history})))
    assert sum(step.tokens for step in steps) == 64 * 30
    assert {step.tokens for step in steps} == {64}


def test_an_evaluation_has_a_beginning_and_an_end(tmp_path: Path) -> None:
    history = [
        entry(1, wall_time=START + 10), entry(2, wall_time=START + 20),
        {"step": 2, "epoch": 0.2, "eval_loss": 1.5, "eval_runtime": 30.0, "wall_time": START + 50},
        entry(3, wall_time=START + 60),
    ]  # fmt: skip
    found = replay(write(tmp_path, {"max_steps": 3, "log_history": history}))
    at = [(event.time - START, event.kind, getattr(event, "state", "")) for event in found]
    phases = [each for each in at if each[1] in {"phase_changed", "evaluated"}]
    assert phases == [
        (20.0, "phase_changed", "evaluating"), (50.0, "evaluated", ""), (50.0, "phase_changed", "training"),
    ]  # fmt: skip
    assert of(events.StepEnded, found)[-1].duration_seconds == pytest.approx(10.0), "not the evaluation's time"


def test_nan_in_all_its_spellings(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(
        '{"max_steps": 4, "log_history": [{"step": 1, "loss": NaN, "grad_norm": NaN}, {"step": 2, "loss": "NaN"},'
        ' {"step": 3, "loss": Infinity}, {"step": 4, "loss": null, "eval_loss": NaN}]}'
    )
    found = replay(path)
    assert [math.isfinite(loss.loss) for loss in of(events.LossLogged, found)] == [False] * 3
    assert math.isnan(of(events.Evaluated, found)[0].loss)


def test_a_step_that_goes_back_is_a_restart(tmp_path: Path) -> None:
    history = [entry(n) for n in range(1, 21)] + [entry(n) for n in range(11, 31)]
    found = replay(write(tmp_path, {"max_steps": 30, "log_history": history}))
    starts = of(events.RunStarted, found)
    assert [start.step for start in starts] == [0, 10]
    assert [loss.step for loss in of(events.LossLogged, found)] == [*range(1, 21), *range(11, 31)]
    state = RunState()
    for event in found:
        state.apply(event)
    assert (state.step, state.state) == (30, "completed")
    assert found[-1].time - found[0].time == pytest.approx(40.0), "the steps that were made twice took their time twice"


def test_between_an_interruption_and_the_restart_nothing_ran(tmp_path: Path) -> None:
    before = [{**entry(n), "wall_time": START + n} for n in range(1, 21)]
    after = [{**entry(n), "wall_time": START + 7200 + n} for n in range(11, 31)]
    found = replay(write(tmp_path, {"max_steps": 30, "log_history": before + after}))
    first_end, restart = of(events.RunEnded, found)[0], of(events.RunStarted, found)[1]
    assert (first_end.time, first_end.state) == (START + 20, "interrupted")
    assert restart.time == START + 7210
    durations = [step.duration_seconds for step in of(events.StepEnded, found)]
    assert durations == pytest.approx([1.0] * 40)


def test_an_epoch_that_goes_back_is_a_restart(tmp_path: Path) -> None:
    history = [entry(n) for n in range(1, 21)] + [entry(n, epoch=(n - 10) / 10) for n in range(21, 31)]
    starts = of(events.RunStarted, replay(write(tmp_path, {"max_steps": 30, "log_history": history})))
    assert [start.step for start in starts] == [0, 20]


def test_what_stopped_early_was_interrupted(tmp_path: Path) -> None:
    found = replay(write(tmp_path, {"max_steps": 300, "log_history": [entry(n) for n in range(1, 21)]}))
    assert found[-1].state == "interrupted"  # type: ignore[attr-defined]


def test_evaluations_only_and_negative_losses(tmp_path: Path) -> None:
    history = [{"step": n, "eval_loss": -0.1 * n} for n in range(10, 60, 10)]
    found = replay(write(tmp_path, {"log_history": history}))
    assert [event.loss for event in of(events.Evaluated, found)] == pytest.approx([-1.0, -2.0, -3.0, -4.0, -5.0])
    assert found[0].max_steps == 50  # type: ignore[attr-defined]


def test_a_repeated_entry_counts_once(tmp_path: Path) -> None:
    history = [entry(1), entry(2), entry(2), entry(2, loss=1.5), entry(3)]
    found = replay(write(tmp_path, {"log_history": history}))
    assert [loss.loss for loss in of(events.LossLogged, found)] == [2.0, 2.0, 1.5, 2.0]


def test_several_validation_sets(tmp_path: Path) -> None:
    history = [entry(1), {"step": 1, "eval_a_loss": 3.0, "eval_b_loss": 4.0}]
    assert of(events.Evaluated, replay(write(tmp_path, {"log_history": history})))[0].loss == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"trainer_state\.json: line 1: not JSON"),
        ("[1]", r"trainer_state\.json: found \[1\], allowed: an object with the key 'log_history'"),
        ("{}", r"key 'log_history': found nothing, allowed: a list"),
        ('{"log_history": []}', r"no entry with a training loss or a validation loss"),
        ('{"log_history": [3]}', r"log_history\[0\]: found 3, allowed: an object"),
        ('{"log_history": [{"loss": 1.0}]}', r"log_history\[0\]: key 'step' is missing"),
        (
            '{"log_history": [{"loss": "high", "step": 1}]}',
            r"log_history\[0\]: key 'loss': found 'high', allowed: a num",
        ),
        ('{"log_history": [{"loss": 1.0, "step": -4}]}', r"key 'step': found -4, allowed: an integer from 0"),
        (
            '{"log_history": [{"loss": 1.0, "step": 1, "wall_time": 1e15}]}',
            r"key 'wall_time': found 1000000000000000\.0, allowed: 0 up to 1e\+11",
        ),
        ('{"max_steps": "many", "log_history": [{"loss": 1.0, "step": 1}]}', r"key 'max_steps': found 'many'"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as caught:
        list(Record(path, "trainer_state", "r").events())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# -- whatever is in them --------------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["NaN", "Infinity"])
)
keys = st.sampled_from(
    [
        "step",
        "loss",
        "eval_loss",
        "eval_x_loss",
        "epoch",
        "grad_norm",
        "learning_rate",
        "wall_time",
        "eval_runtime",
        "tokens_per_second",
        "num_input_tokens_seen",
    ]
)
plausible = st.fixed_dictionaries(
    {"step": st.integers(0, 300)},
    optional={
        "loss": st.floats(), "eval_loss": st.floats(), "epoch": st.floats(0, 5), "wall_time": st.floats(0, 1e6),
        "eval_runtime": st.floats(0, 50), "tokens_per_second": st.floats(), "num_tokens": st.floats(),
        "learning_rate": st.floats(),
    },
)  # fmt: skip
entries = st.lists(plausible | st.dictionaries(keys, scalars | st.lists(scalars, max_size=2), max_size=6), max_size=30)
headers = st.dictionaries(
    st.sampled_from(["max_steps", "global_step", "num_train_epochs", "logging_steps", "warmup_ratio", "warmup_steps"]),
    scalars | st.integers(0, 1000) | st.floats(0, 10),
    max_size=4,
)


def attempt(record: Record) -> tuple[list[events.Event], str | None]:
    try:
        return list(record.events()), None
    except RecordError as error:
        return [], str(error)


@settings(max_examples=300, deadline=None)
@given(header=headers, history=entries, seconds=st.floats(0.01, 100))
def test_any_trainer_state_gives_events_in_order_or_a_clear_error(
    header: dict[str, Any], history: list[Any], seconds: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), {**header, "log_history": history})
        found, refused = attempt(Record(path, "trainer_state", "r", seconds))
    if refused is not None:
        assert refused.startswith(str(path))
        assert "\n" not in refused
        return
    assert isinstance(found[0], events.RunStarted)
    assert isinstance(found[-1], events.RunEnded)
    assert all(a.time <= b.time for a, b in itertools.pairwise(found))
    # What a journal cannot hold is no event.
    assert all(type(from_record(json.loads(json.dumps(to_record(event))))) is type(event) for event in found)
    state = RunState()
    for event in found:
        state.apply(event)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), name=st.sampled_from(["trainer_state.json", "journal.jsonl", "e.tfevents.1", "x"]))
def test_any_bytes_give_a_clear_error(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        records, errors = files.find([path])
        for record in records:
            with pytest.raises(RecordError) as caught:
                list(record.events())
            errors.append(str(caught.value))
        assert len(errors) == 1
        assert str(folder) in errors[0]
        assert "\n" not in errors[0]


# -- journals -------------------------------------------------------------------------------------------------------


def journal(path: Path, *what: events.Event) -> Path:
    writer = JournalWriter(path)
    for event in what:
        writer.put(event)
    writer.close()
    return path


def test_a_journal_gives_its_own_events_and_says_what_it_passed_over(tmp_path: Path) -> None:
    written = [
        events.RunStarted(time=START, run="r", max_steps=3),
        *(events.LossLogged(time=START + n, step=n, loss=1.0) for n in range(1, 4)),
    ]
    path = journal(tmp_path / "journal.jsonl", *written)
    with path.open("ab") as file:
        file.write(b'{"event": "loss_lo')
    record = files.find([tmp_path])[0][0]
    assert list(record.events()) == written
    assert len(record.problems) == 1
    assert "journal.jsonl: line 5: not JSON" in record.problems[0]


def test_a_journal_that_does_not_begin_with_the_start_is_refused(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal.jsonl", events.LossLogged(time=START, step=1, loss=1.0))
    with pytest.raises(RecordError, match=r"line 1: found the event 'loss_logged', allowed: 'run_started'"):
        replay(path)


# -- folders --------------------------------------------------------------------------------------------------------


def test_of_one_output_directory_the_record_that_tells_most_is_read(tmp_path: Path) -> None:
    with_journal, with_states, plain = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    journal(with_journal / "journal.jsonl", events.RunStarted(time=START, run="a"))
    journal(with_journal / "journal.before.jsonl", events.RunStarted(time=START, run="before"))
    for folder in (with_journal, with_states):
        for step in (9, 100):
            trainer_state(folder / f"checkpoint-{step}", steps=step)
    trainer_state(plain, steps=5)
    (tmp_path / "data.jsonl").write_text('{"text": "a training example"}\n')
    (tmp_path / "labels.json").write_text('{"a": 1}\n')
    (with_states / "runs" / "Jan01_host").mkdir(parents=True)
    (with_states / "runs" / "Jan01_host" / "events.out.tfevents.1").write_bytes(b"")
    records, errors = files.find([tmp_path])
    assert not errors
    assert [(str(record.path.relative_to(tmp_path)), record.run) for record in records] == [
        ("a/journal.before.jsonl", "a"),
        ("a/journal.jsonl", "a"),
        ("b/checkpoint-100/trainer_state.json", "b"),
        ("c/trainer_state.json", "c"),
    ]


def test_links_to_runs_are_followed_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trainer_state(tmp_path / "store" / name, steps=5)
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for name in ("a", "b"):
        (chosen / name).symlink_to(tmp_path / "store" / name)
    (chosen / "again").symlink_to(chosen)
    records, errors = files.find([chosen])
    assert not errors
    assert [record.run for record in records] == ["a", "b"]


def test_a_named_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    state = trainer_state(tmp_path, steps=5).rename(tmp_path / "last-year.json")
    lines = journal(tmp_path / "log.txt", events.RunStarted(time=START, run="a"))
    records, errors = files.find([state, lines])
    assert not errors
    assert [(record.run, record.format) for record in records] == [
        ("last-year", "trainer_state"), (tmp_path.name, "journal"),
    ]  # fmt: skip


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file or folder"):
        files.find([tmp_path / "nothing"])
