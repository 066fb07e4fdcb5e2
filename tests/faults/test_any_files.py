"""Whatever stands in a file that somebody names: events in order, or one clear line; and no memory for bombs."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import any_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event

from training_exporter.cli import main
from training_exporter.sources import trainer_state
from training_exporter.web.config import WebConfigError, load
from training_exporter.yaml_file import MAX_BYTES

Captured = pytest.CaptureFixture[str]


# -- files that are broken at random --------------------------------------------------------------------------------


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a few places overwritten, left out or said twice."""
    place = st.integers(0, len(data))
    change = st.tuples(place, st.integers(0, 40), st.binary(max_size=8))

    def changed(changes: list[tuple[int, int, bytes]]) -> bytes:
        found = data
        for at, length, new in changes:
            found = found[:at] + new + found[at + length :]
        return found

    return st.lists(change, min_size=1, max_size=4).map(changed)


@pytest.mark.parametrize("kind", any_files.SAMPLES)
def test_a_whole_file_is_read(tmp_path: Path, kind: str) -> None:
    any_files.check(kind, any_files.SAMPLES[kind], tmp_path, whole=True)


@pytest.mark.parametrize("kind", any_files.SAMPLES)
@settings(max_examples=40)
@given(data=st.data())
def test_a_broken_file_is_read_as_far_as_it_goes_or_named(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    broken = data.draw(mutated(any_files.SAMPLES[kind]))
    any_files.check(kind, broken, tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    "seed", sorted(any_files.SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_has_broken_a_reader_stays_mended(tmp_path: Path, seed: Path) -> None:
    any_files.check(seed.parent.name, seed.read_bytes(), tmp_path)


# -- files that are larger than they look ---------------------------------------------------------------------------


def bounded(what: Callable[[], object], megabytes: int) -> None:
    """Run `what` and see that Python took no more memory for it."""
    tracemalloc.start()
    try:
        what()
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


def refused(capsys: Captured, path: Path, *arguments: str) -> str:
    """The one line of the command about a file that it cannot take."""
    assert main(["backtest", str(path), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(len(line) < 500 for line in lines)
    assert "Traceback" not in "".join(lines)
    return "\n".join(lines)


def test_a_trainer_state_of_millions_of_empty_lists(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(b'{"log_history": [' + b"[]," * trainer_state.MAX_VALUES + b"[]]}")
    bounded(lambda: any_files.check("trainer_state", path, tmp_path), 200)


def test_a_trainer_state_of_many_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    bounded(lambda: any_files.check("trainer_state", path, tmp_path), 1)


def test_a_journal_that_is_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 28)
    bounded(lambda: any_files.check("journal", path, tmp_path), 20)


def test_a_tensor_of_a_few_bytes_that_says_it_is_one_of_terabytes(tmp_path: Path) -> None:
    huge = [any_files.scalar(n, 1000.0 + n, "train/loss", 1.0, [2**20, 2**20]) for n in range(3)]
    file = any_files.event_file([*huge, any_files.scalar(4, 1004.0, "train/loss", 2.0)])
    bounded(lambda: any_files.check("tensorboard", file, tmp_path, whole=True), 20)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            any_files.scalar,
            st.integers(-(2**62), 2**62) | st.integers(0, 100),
            st.floats() | st.floats(0.0, 1e4),
            st.sampled_from(["train/loss", "eval/loss", "eval/runtime", "train/epoch", "train/num_input_tokens_seen"]),
            st.floats(width=32),
            st.lists(st.integers(-1, 3), max_size=3),
        ),
        max_size=12,
    )
)
def test_any_scalars_in_a_tensorboard_file(tmp_path_factory: pytest.TempPathFactory, recorded: list[Event]) -> None:
    any_files.check("tensorboard", any_files.event_file(recorded), tmp_path_factory.getbasetemp())


# -- YAML -----------------------------------------------------------------------------------------------------------

#: Each stands for more, or for something else, than its few bytes show.
YAML_BOMBS = {
    "laughs": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "loss: *j\n",
    "circle": "loss: &a [*a, *a]",
    "month": "loss: 2001-99-99",
    "bool": "loss: !!bool perhaps",
    "digits": "loss_floor: 0x" + "f" * 5000,
    "date": "loss_floor: !!timestamp x",
    "list as a key": "? [1]\n: 2",
    "long key": "x" * 10_000 + ": 1",
    "nested": "[" * 700,
    "flood": "# " + "x" * MAX_BYTES,
    "object": "!!python/object/apply:os.system ['true']",
    "surrogate": '"\\ud800": 1',
    "zero": "\x00",
    "infinite": "loss_floor: .inf",
    "model": 'tokens_per_second: {"' + "\\0" * 10 + '": [1, 2, 3]}',
}


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_a_yaml_file_that_is_more_than_it_shows(tmp_path: Path, capsys: Captured, name: str) -> None:
    profile, settings_file = tmp_path / "profile.yaml", tmp_path / "settings.yaml"
    for path in (profile, settings_file):
        path.write_text(YAML_BOMBS[name])
    run = tmp_path / "trainer_state.json"
    run.write_text(json.dumps({"log_history": [{"step": 1, "loss": 1.0}]}))
    bounded(lambda: _is_one_line(refused(capsys, run, "--profile", str(profile)), profile), 40)


def _is_one_line(said: str, path: Path) -> None:
    assert said.startswith(f"training-exporter backtest: {path}: ")
    assert len(said.splitlines()) == 1


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_files.profile_keys, inner, max_size=3)
)


@settings(max_examples=60)
@given(documents)
def test_any_profile(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    text = json.dumps(document)  # which is YAML too
    any_files.check("profile", text.encode(), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", YAML_BOMBS)
@pytest.mark.parametrize("key", ["{}", "tls_server_config: {{min_version: [{}]}}", "basic_auth_users:\n  {}"])
def test_a_web_configuration_that_is_more_than_it_shows(tmp_path: Path, name: str, key: str) -> None:
    path = tmp_path / "web.yml"
    path.write_text(key.format(YAML_BOMBS[name]))
    with pytest.raises(WebConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 300
    assert "\n" not in str(caught.value)
