"""A checkpoint, an adapter or a model with a pickle or code in it: nothing is run, and the message names the file.

Each hostile file would create a marker if anything in it were executed; that it would is tried first.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trading_llm import cli
from trading_llm.base import __file__ as base_file
from trading_llm.dataset import simulated_dataset, write_dataset
from trading_llm.errors import UsageError
from trading_llm.untrusted import check_checkpoint

pytestmark = pytest.mark.timeout(600)


class Evil:
    """Creates `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return subprocess.check_call, (["touch", str(self.marker)],)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def write_plain(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps(evil))


def write_zip(path: Path, evil: Evil) -> None:
    torch.save({"state": evil}, path)


def write_old(path: Path, evil: Evil) -> None:
    torch.save({"state": evil}, path, _use_new_zipfile_serialization=False)


def options(data: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", "--train-data", str(data), "--output-dir", str(output), "--batch-size", "4", "--threads", "1",
        "--metrics-port", "0", "--save-steps", "4", "--num-epochs", "1", "--quality-prompts", "0", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), *simulated_dataset(24, 8))[0]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    assert cli.main(options(data, output)) == 0
    return output


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def newest(output: Path) -> Path:
    return max(output.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


@pytest.mark.parametrize("write", [write_plain, write_zip, write_old])
def test_the_hostile_files_are_hostile(write: Callable[[Path, Evil], None], tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "file", Evil(marker))
    try:
        torch.load(tmp_path / "file", weights_only=False)
    except Exception:
        with (tmp_path / "file").open("rb") as file:
            pickle.load(file)
    assert marker.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin", "scaler.pt"])
@pytest.mark.parametrize("write", [write_plain, write_zip, write_old])
def test_resume_refuses_it_by_name(
    name: str, write: Callable[[Path, Evil], None], copy: Path, data: Path, marker: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = newest(copy) / name
    write(file, Evil(marker))
    assert cli.main(options(data, copy, "--resume")) == 2
    said = capfd.readouterr().err
    assert f"--resume: found {file}, which is not only tensors and numbers" in said
    assert said.count("\n") == 1
    assert not marker.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_transformers_itself_would_not_run_it_either(
    name: str, copy: Path, data: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Our check left out: the second line of defence, as it is in the installed version."""
    monkeypatch.setattr("trading_llm.checkpoints.check_checkpoint", lambda _: None)
    shutil.rmtree(newest(copy))  # so that there is something left to train
    write_zip(newest(copy) / name, Evil(marker))
    assert cli.main(options(data, copy, "--resume")) == 1
    assert "Weights only load failed" in capfd.readouterr().err
    assert not marker.exists()


def test_a_checkpoint_of_ours_is_taken_and_what_nobody_reads_is_not_looked_at(
    copy: Path, data: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(newest(copy))  # so that there is something left to train
    write_plain(newest(copy) / "training_args.bin", Evil(marker))
    assert cli.main(options(data, copy, "--resume")) == 0, capfd.readouterr().err
    assert not marker.exists()


def test_the_index_of_shards(tmp_path: Path, marker: Path) -> None:
    import torch.distributed.checkpoint as shards

    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    folder = tmp_path / "checkpoint-1" / "optimizer_0"
    shards.save({"layer": layer.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=folder, no_dist=True)
    check_checkpoint(tmp_path / "checkpoint-1")
    write_plain(folder / ".metadata", Evil(marker))
    with pytest.raises(UsageError, match=r"\.metadata, which is not only tensors and numbers \(it calls subprocess"):
        check_checkpoint(tmp_path / "checkpoint-1")
    assert not marker.exists()


@pytest.mark.parametrize("command", ["merge", "infer"])
def test_an_adapter_without_safetensors_is_refused(
    command: str, copy: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (copy / "adapter_model.safetensors").unlink()
    write_zip(copy / "adapter_model.bin", Evil(marker))
    more = ["--output-dir", str(copy / "merged")] if command == "merge" else ["--prompt", "x"]
    assert cli.main([command, "--adapter", str(copy), *more]) == 2
    assert "allowed: a directory with adapter_config.json and adapter_model.safetensors" in capfd.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("command", ["merge", "infer"])
def test_pickles_beside_the_safetensors_are_not_looked_at(
    command: str, copy: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        write_zip(copy / name, Evil(marker))
    more = ["--output-dir", str(copy / "merged")] if command == "merge" else ["--prompt", "x", "--max-new-tokens", "2"]
    assert cli.main([command, "--adapter", str(copy), *more]) == 0, capfd.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    "config",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"auto_mapping": {"parent_library": "evil", "base_model_class": "Evil"}},
    ],
)
def test_an_adapter_imports_no_module(
    config: dict[str, object], copy: Path, marker: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(str(copy))
    path = copy / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    assert cli.main(["infer", "--adapter", str(copy), "--prompt", "x"]) == 2
    assert f"--adapter: {path}: {next(iter(config))}: found" in capfd.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["pickle", "code"])
@pytest.mark.parametrize("command", ["train", "dry-run"])
def test_a_base_model_with_a_pickle_or_code_is_refused(
    kind: str, command: str, data: Path, tmp_path: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(Path(base_file).parent, base, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    if kind == "pickle":
        (base / "model.safetensors").unlink()
        write_zip(base / "pytorch_model.bin", Evil(marker))
        if command == "dry-run":
            pytest.skip("a plan reads no weights")
    else:
        (base / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
        config = json.loads((base / "config.json").read_text())
        config["model_type"] = "evil"
        config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        (base / "config.json").write_text(json.dumps(config))
    more = ["--dry-run"] if command == "dry-run" else []
    assert cli.main(options(data, tmp_path / "out", "--base-model", str(base), *more)) == 2
    said = capfd.readouterr().err
    assert f"--base-model: found {str(base)!r}, which cannot be loaded" in said
    assert "Traceback" not in said
    assert not marker.exists()


def test_settings_of_a_checkpoint_are_data(copy: Path, data: Path, marker: Path) -> None:
    hostile = f"run_name: !!python/object/apply:os.system ['touch {marker}']\n"
    (copy / "settings.yaml").write_text(hostile)
    assert cli.main(options(data, copy, "--resume")) == 0  # as without that file
    (copy / "settings.yaml").write_text(hostile)
    assert cli.main(options(data, copy, "--config", str(copy / "settings.yaml"))) == 2
    assert not marker.exists()
