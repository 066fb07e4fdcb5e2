"""docs/faults.md speaks of tests that exist, and each of its rows has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and "---" not in line
]
_NODE = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def named_in(path: Path) -> set[str]:
    """Names of the functions of a test file, and of what Hypothesis makes a test case of."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.add(f"{node.targets[0].id}::runTest")
    return names


@pytest.mark.parametrize("row", [row for row in ROWS if not row.endswith("| shown by |")], ids=lambda row: row[2:40])
def test_each_fault_is_shown_by_a_test(row: str) -> None:
    nodes = _NODE.findall(row.rsplit(" | ", 1)[1])
    assert nodes, "a row without a test"
    missing = [f"{path}::{name}" for path, name in nodes if name not in named_in(ROOT / path)]
    assert missing == []


def test_the_table_is_read() -> None:
    assert len(ROWS) > 30
