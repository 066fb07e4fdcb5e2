"""An alert fires in a backtest when Prometheus' own evaluation of the rule says so."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
import yaml

from training_exporter.backtest.firing import Firing, firings, merged
from training_exporter.backtest.rules import AlertRule, duration
from training_exporter.stack import binaries

STEP = 5.0


@pytest.mark.parametrize(("hold", "keep"), [(0, 0), (5, 0), (12, 0), (0, 5), (0, 12), (10, 20), (15, 7)])
def test_as_promtool_evaluates_it(tmp_path: Path, hold: int, keep: int) -> None:
    """Random patterns of a condition that holds and ceases to hold, compared at every evaluation."""
    rule = {"alert": "A", "expr": "max by (run) (x) > 0", "labels": {"sign": "s"}}
    rule |= {"for": f"{hold}s"} if hold else {}
    rule |= {"keep_firing_for": f"{keep}s"} if keep else {}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    chance = random.Random(hold * 100 + keep)
    alert = AlertRule("A", "", {}, None, float(hold), float(keep))
    evaluations = [STEP * n for n in range(60)]
    tests = []
    fired = 0
    for _ in range(6):
        held, pattern = False, []
        for _ in evaluations:
            held = not held if chance.random() < 0.3 else held
            pattern.append(held)
        found = firings(alert, [at for at, on in zip(evaluations, pattern, strict=True) if on], evaluations)
        fired += len(found)
        checks = [
            {
                "eval_time": f"{int(at)}s",
                "alertname": "A",
                "exp_alerts": [{"exp_labels": {"run": "r", "sign": "s"}}] if _fires(found, at) else [],
            }
            for at in evaluations
        ]
        values = " ".join(str(int(on)) for on in pattern)
        tests.append(
            {"interval": "5s", "input_series": [{"series": 'x{run="r"}', "values": values}], "alert_rule_test": checks}
        )
    assert fired > 5
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "5s", "tests": tests})
    )
    promtool = binaries.require([binaries.PROMTOOL])["promtool"]
    done = subprocess.run([promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[:2000]


def _fires(found: list[Firing], at: float) -> bool:
    return any(firing.start <= at and (firing.end is None or at < firing.end) for firing in found)


def test_firings_of_several_series_of_one_alert() -> None:
    parts = [Firing(10, 20), Firing(15, 30), Firing(40, 50), Firing(50, None), Firing(60, 70)]
    assert merged(parts) == [Firing(10, 30), Firing(40, None)]


def test_durations() -> None:
    assert [duration(text) for text in ("0", "0s", "90s", "1h30m", "1d", "500ms")] == [0, 0, 90, 5400, 86400, 0.5]
    with pytest.raises(ValueError, match="allowed: a duration such as"):
        duration("soon")
