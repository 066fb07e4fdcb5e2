"""What must hold of any file that a reader is given; for the property tests and for the fuzzer."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.summary.writer.record_writer import RecordWriter

from training_exporter import events, profile
from training_exporter.events import from_record, to_record
from training_exporter.gpu import replay
from training_exporter.gpu.collector import GpuCollector
from training_exporter.gpu.nvml import NvmlReader
from training_exporter.profile import ProfileError
from training_exporter.sinks.collectors import registry_of
from training_exporter.sources.files import Record
from training_exporter.sources.log_history import RecordError
from training_exporter.state import RunState

#: What has broken a reader, by reader: the fuzzer begins with it, and writes here what it finds.
SEEDS = Path(__file__).parent / "seeds"

NAMES = {
    "journal": "journal.jsonl",
    "trainer_state": "trainer_state.json",
    "tensorboard": "events.out.tfevents.1700000000.host",
    "profile": "profile.yaml",
    "capture": "capture.json",
}


def _journal() -> bytes:
    told: list[events.Event] = [
        events.RunStarted(time=1000.0, run="r", max_steps=4, num_epochs=1.0, settings={"gpu": "NVIDIA A100"})
    ]
    for step in (1, 2, 3):
        told.append(events.StepEnded(time=1000.0 + step, step=step, epoch=step / 4, tokens=9, duration_seconds=1.0))
        told.append(events.LossLogged(time=1000.0 + step, step=step, loss=math.nan if step == 2 else 2.0))
    told.append(events.Evaluated(time=1003.5, step=3, loss=2.1))
    told.append(events.RanksTimed(time=1003.5, step=3, seconds=(0.5, math.inf)))
    samples = (events.TextSample("rsi_14: 71", "RSI at 71 is overbought."),)
    told.append(events.TextScored(time=1003.6, step=3, stage="early", scores={"readings": 0.5}, samples=samples))
    told.append(events.CheckpointSaved(time=1003.7, step=3, path="out/checkpoint-3"))
    told.append(events.RunStarted(time=1010.0, run="r", max_steps=4, step=3))
    told.append(events.RunEnded(time=1011.0, state="failed", reason="ValueError: x"))
    return b"".join(json.dumps(to_record(event)).encode() + b"\n" for event in told)


def _trainer_state() -> bytes:
    log = [{"step": n, "epoch": n / 8, "loss": 2.0 / n, "learning_rate": 1e-4, "grad_norm": 1.0} for n in range(1, 9)]
    log.append({"step": 8, "epoch": 1.0, "eval_loss": 2.0, "eval_runtime": 0.5, "wall_time": 1e9})
    log.append({"step": 9, "loss": math.nan, "num_input_tokens_seen": 1000, "tokens_per_second": 90.0})
    state = {"max_steps": 9, "num_train_epochs": 2, "logging_steps": 1, "learning_rate": 1e-4, "warmup_ratio": 0.1}
    return json.dumps({**state, "lr_scheduler_type": "cosine", "train_batch_size": 8, "log_history": log}).encode()


def _tensorboard() -> bytes:
    arguments = '{"num_train_epochs": 2, "max_steps": -1, "learning_rate": 0.0001, "lr_scheduler_type": "cosine"}'
    recorded = [text(0, 1000.0, "args/text_summary", arguments)]
    for step in (1, 2, 3):
        for tag, value in (("train/loss", 2.0), ("train/grad_norm", 1.0), ("train/epoch", step / 4)):
            recorded.append(scalar(step, 1000.0 + step, tag, value))
    recorded += [scalar(3, 1004.0, "eval/loss", 2.1), scalar(3, 1004.0, "eval/runtime", 0.5)]
    return event_file(recorded)


def event_file(recorded: Sequence[Event]) -> bytes:
    """As TensorBoard's own writer makes it, with the checksums."""
    file = io.BytesIO()
    writer = RecordWriter(file)
    for event in recorded:
        writer.write(event.SerializeToString())
    return file.getvalue()


def scalar(step: int, time: float, tag: str, value: float, shape: Sequence[int] = ()) -> Event:
    tensor = TensorProto(dtype=1, float_val=[value])
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return Event(wall_time=time, step=step, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor)]))


def text(step: int, time: float, tag: str, value: str) -> Event:
    tensor = TensorProto(dtype=7, string_val=[value.encode()])
    tensor.tensor_shape.dim.add(size=1)
    return Event(wall_time=time, step=step, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor)]))


#: A whole file of each kind.
SAMPLES = {
    "journal": _journal(),
    "trainer_state": _trainer_state(),
    "tensorboard": _tensorboard(),
    "profile": profile.DEFAULT.read_bytes(),
    "capture": (replay.CAPTURES / "faulty.json").read_bytes(),
}

profile_keys = st.sampled_from(
    [*(field for field in profile.Profile.__dataclass_fields__), "final", "early", "coherence", "0", "3", "A100"]
) | st.text(max_size=5)


def check(kind: str, given: bytes | Path, folder: Path, *, whole: bool = False) -> None:
    """Read a file of that kind: its events can be applied and kept, or it is refused in one line that names it.

    `whole` demands that it is read.
    """
    path = given if isinstance(given, Path) else folder / NAMES[kind]
    if isinstance(given, bytes):
        path.write_bytes(given)
    refused = {"profile": _profile, "capture": _capture}.get(kind, lambda file: _record(kind, file))(path)
    if refused is not None:
        assert not whole, refused
        assert refused.startswith(f"{path}: "), refused
        assert len(refused.splitlines()) == 1, refused
        assert len(refused) < len(str(path)) + 600, refused


def _profile(path: Path) -> str | None:
    try:
        loaded = profile.load(path)
    except ProfileError as error:
        return str(error)
    state = RunState(loaded)
    state.apply(events.RunStarted(time=1.0, run="r", max_steps=2, num_epochs=2.0, settings={"gpu": "NVIDIA A100"}))
    return None


def _capture(path: Path) -> str | None:
    try:
        capture = replay.load(path)
    except replay.CaptureError as error:
        return str(error)
    reader = NvmlReader(replay.ReplayNvml(capture, clock=lambda: 0.0), clock=lambda: 0.0)
    page = generate_latest(registry_of([("gpu", GpuCollector(reader))])).decode()
    assert list(text_string_to_metric_families(page))
    return None


def _record(kind: str, path: Path) -> str | None:
    record = Record(path, kind, "r")  # type: ignore[arg-type]
    try:
        found = list(record.events())
    except RecordError as error:
        return str(error)
    finally:
        assert all(len(problem) < len(str(path)) + 600 and "\n" not in problem for problem in record.problems)
    assert isinstance(found[0], events.RunStarted)
    assert all(a.time <= b.time for a, b in itertools.pairwise(found))
    state = RunState()
    for event in found:
        # What a journal cannot hold is no event.
        assert repr(from_record(json.loads(json.dumps(to_record(event), allow_nan=False)))) == repr(event)
        state.apply(event)
    return None
