"""What a query gives on series that are made up, answered by promtool: states that a recording cannot be in at once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from training_exporter.stack.binaries import PROMTOOL

#: A case's series are sampled every ten seconds; it is asked at this moment, from 0.
MOMENT = "10m"
SAMPLES = 61


@dataclass(frozen=True)
class Case:
    """Series -> values in promtool's notation (`2x60`); what the query then gives: labels -> value."""

    query: str
    series: Mapping[str, str]
    expected: Mapping[str, float]


def check(cases: Sequence[Case], folder: Path) -> None:
    """Fails with promtool's words where a query gives something else."""
    promtool = PROMTOOL.find()
    if promtool is None:
        pytest.skip("promtool is not on PATH: `make setup` installs it where it can")
    tests = [
        {
            "interval": "10s",
            "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
            "promql_expr_test": [
                {
                    "expr": case.query,
                    "eval_time": MOMENT,
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in case.expected.items()],
                }
            ],
        }
        for case in cases
    ]
    file = folder / "made-up.yml"
    file.write_text(yaml.safe_dump({"tests": tests}), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, timeout=120, check=False)
    # promtool repeats the whole query; what it expected and got stands after it.
    told = re.sub(r'expr: "(.{60}).*?", time', r'expr: "\1...", time', done.stdout + done.stderr)
    assert done.returncode == 0, told
