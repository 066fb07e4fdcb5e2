"""Hypothesis strategies for events: plausible ones, and those that say what no training can."""

from __future__ import annotations

import dataclasses
import math
import os

from hypothesis import strategies as st

from training_exporter import events

#: Numbers at which arithmetic breaks, beside the ordinary ones.
absurd = st.sampled_from(
    [
        math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e-300, 1e-9, -1.0, 1e9, 1e18, 3.4e38, 3.5e38, -3.4e38,
        1e300, 1.7976931348623157e308, -1.7976931348623157e308,
    ]
)  # fmt: skip
numbers = st.floats(0.0, 10.0) | absurd | st.floats()
integers = st.integers(0, 200) | st.sampled_from([-1, -(2**53), 0, 1, 2**31, 2**53, 10**30])
#: Any time that an event may have, in any order: a clock that was set back, forth, and to another century.
times = st.floats(0.0, 2000.0) | st.sampled_from([0.0, 1.0, 1e9, 1.7e9, 9.9e10])
#: Names and texts of every kind, up to the halves of surrogate pairs that `os.fsdecode` makes of foreign file names.
ODD_TEXTS = [
    'quotes " and \\ backslash \\n',
    "line\nbreak\r\nand\x00zero\x85\u2028\x1b[31m",
    "עברית 日本語 🙂" * 20,
    "\u202egnp.exe \u2066x\u2069",
    "\ud800 half \udfff",
    os.fsdecode(b"caf\xe9"),
    "x" * 10_000,
    "é" * 10_000,
    "🙂" * 3_000,
    '{run="x"} 1\n# EOF\nllm_training_loss{run="r"} 0',
    "../../etc/passwd",
    ".",
    "{{ .ExternalURL }}",
    "<script>alert(1)</script>",
    "a\tb",
    " ",
    "\uffff",
]
# By number, because Hypothesis would print them all.
texts = (
    st.integers(0, len(ODD_TEXTS) - 1).map(ODD_TEXTS.__getitem__)
    | st.sampled_from(["", "r"])
    | st.text(max_size=30)
    | st.text(st.characters(codec=None), max_size=30)
)


def _values(field: dataclasses.Field[object], cls: type[events.Event]) -> st.SearchStrategy[object]:
    kind = str(field.type)
    if field.name == "time":
        return times
    if field.name == "state":
        return st.sampled_from([*events.STATES, "", "lost"])
    if field.name == "stage":
        return st.sampled_from([*events.TEXT_STAGES, "late"])
    if field.name == "lr_scheduler":
        return st.none() | st.sampled_from(["constant", "linear", "cosine", "constant_with_warmup"]) | texts
    if field.name == "settings":
        keys = st.sampled_from(["gpu", "world_size", "base_model", "dataset"])
        return st.dictionaries(keys | texts, texts | st.sampled_from(["NVIDIA A100-SXM4-80GB", "8", "-1"]), max_size=4)
    if field.name == "scores":
        return st.dictionaries(st.sampled_from(["action", "readings"]) | texts, numbers, max_size=4)
    if field.name == "samples":
        return st.lists(st.builds(events.TextSample, texts, texts), max_size=5).map(tuple)
    if field.name == "seconds":
        return st.lists(numbers, max_size=5).map(tuple)
    base: st.SearchStrategy[object] = (
        texts if kind.startswith("str") else integers if kind.startswith("int") else numbers
    )
    return st.none() | base if kind.endswith("None") else base


def of(cls: type[events.Event]) -> st.SearchStrategy[events.Event]:
    """Events of a class whose fields have the right types and hold anything."""
    return st.builds(cls, **{field.name: _values(field, cls) for field in dataclasses.fields(cls)})


any_event = st.one_of(*map(of, events.EVENT_TYPES.values()))
