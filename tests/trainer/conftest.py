"""A small dataset, and a training of it in this process."""

from pathlib import Path

import pytest
from trainer_runs import Run, options

from trading_llm import cli
from trading_llm.dataset import simulated_dataset, write_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), *simulated_dataset(64, 16))[0]


@pytest.fixture
def run(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def start(*more: str) -> tuple[int, Path, str]:
        output = tmp_path / "out"
        code = cli.main(options(data, output, *more))
        return code, output, "".join(capfd.readouterr())

    return start
