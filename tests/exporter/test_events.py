"""Events survive the way to disk and back, and what is no event is refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_exporter import events

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
texts = st.text(max_size=50)
steps = st.integers(0, 2**53)


def values_for(field: dataclasses.Field, cls: type) -> st.SearchStrategy:
    if field.name == "time":
        return st.floats(0, 9e10)
    if field.name == "state":
        return st.sampled_from(events.FINAL_STATES if cls is events.RunEnded else events.ACTIVE_STATES)
    if field.name == "stage":
        return st.sampled_from(events.TEXT_STAGES)
    if field.name == "scores":
        return st.dictionaries(texts, st.floats(0, 1), max_size=3)
    if field.name == "samples":
        return st.lists(st.builds(events.TextSample, texts, texts), max_size=3).map(tuple)
    if field.name == "seconds":
        return st.lists(finite, max_size=3).map(tuple)
    annotation = str(field.type)
    base = (
        st.dictionaries(texts, texts, max_size=3)
        if annotation.startswith("Mapping")
        else texts
        if annotation.startswith("str")
        else steps
        if annotation.startswith("int")
        else anything
    )
    return st.none() | base if annotation.endswith("None") else base


any_event = st.one_of(
    *(
        st.builds(cls, **{field.name: values_for(field, cls) for field in dataclasses.fields(cls)})
        for cls in events.EVENT_TYPES.values()
    )
)


def same(left: object, right: object) -> bool:
    return left == right or (isinstance(left, float) and isinstance(right, float) and left != left and right != right)


@given(any_event)
def test_an_event_survives_json(event: events.Event) -> None:
    line = json.dumps(events.to_record(event), allow_nan=False)
    back = events.from_record(json.loads(line))
    assert type(back) is type(event)
    for field in dataclasses.fields(event):
        assert same(getattr(back, field.name), getattr(event, field.name)), field.name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
keys = sorted({field.name for cls in events.EVENT_TYPES.values() for field in dataclasses.fields(cls)})


@given(
    json_values
    | st.dictionaries(st.sampled_from(["event", *keys]), json_values | st.sampled_from([*events.EVENT_TYPES]))
)
def test_anything_else_is_refused_and_never_crashes(record: object) -> None:
    with contextlib.suppress(events.InvalidEvent):
        assert isinstance(events.from_record(record), events.Event)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([], "expected an object, found list"),
        ({"event": "nonsense"}, "key 'event': found 'nonsense', allowed: run_started, step_ended"),
        ({"event": "step_ended", "time": 1.0}, "event 'step_ended': key 'step' is missing"),
        ({"event": "step_ended", "time": 1.0, "step": "x"}, "key 'step': found 'x', allowed: an integer"),
        ({"event": "step_ended", "time": -5, "step": 1}, "key 'time': found -5, allowed: Unix seconds"),
        ({"event": "run_ended", "time": 1.0, "state": "training"}, "allowed: completed, failed, interrupted"),
        (
            {"event": "text_scored", "time": 1.0, "step": 1, "stage": "late", "scores": {}},
            "key 'stage': found 'late', allowed: early, middle, final",
        ),
        (
            {"event": "text_scored", "time": 1.0, "step": 1, "stage": "final", "scores": {"action": 1.5}},
            "key 'scores': found {'action': 1.5}, allowed: an object of numbers from 0 to 1",
        ),
        (
            {
                "event": "text_scored",
                "time": 1.0,
                "step": 1,
                "stage": "final",
                "scores": {},
                "samples": [{"text": "x"}],
            },
            "key 'samples': found [{'text': 'x'}], allowed: a list of objects with the strings prompt and text",
        ),
        (
            {"event": "loss_logged", "time": 1.0, "step": 1, "loss": "high"},
            "key 'loss': found 'high', allowed: a number",
        ),
    ],
)
def test_the_reason_names_key_found_and_allowed(record: object, says: str) -> None:
    with pytest.raises(events.InvalidEvent) as caught:
        events.from_record(record)
    assert says in str(caught.value)


def test_a_newer_journal_can_be_read() -> None:
    event = events.from_record({"event": "loss_logged", "time": 1.0, "step": 1, "loss": "NaN", "added_later": 1})
    assert isinstance(event, events.LossLogged)
    assert math.isnan(event.loss)
