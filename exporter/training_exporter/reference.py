"""Writes docs/metrics.md from the tables of families: `python -m training_exporter.reference [--check] FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training_exporter.families import MONITOR_FAMILIES, RUN_FAMILIES, Family
from training_exporter.gpu import GPU_FAMILIES
from training_exporter.sinks.collectors import COLLECTOR_FAMILIES
from training_exporter.supervise.families import PROCESS_FAMILIES

#: Title, what is said about all of the table, labels that its source adds, and the table.
TABLES: tuple[tuple[str, str, tuple[str, ...], Sequence[Family[Any]]], ...] = (
    (
        "A run",
        "Every series carries the label `run`. A value that is not known yet has no sample.",
        ("run",),
        RUN_FAMILIES,
    ),
    (
        "The processes of a run",
        "Of a command below `training-exporter run`, whether it tells of a run or not.",
        ("run",),
        PROCESS_FAMILIES,
    ),
    (
        "A GPU",
        "Read through NVML at the scrape. A figure that the driver does not give has no sample.",
        (),
        GPU_FAMILIES,
    ),
    ("The exporter itself", "", (), (*MONITOR_FAMILIES, *COLLECTOR_FAMILIES)),
)


def metric_names() -> frozenset[str]:
    """Names of all series that the exporter can expose, as queries spell them."""
    return frozenset(name for *_, families in TABLES for family in families for name in family.sample_names)


def render() -> str:
    """The reference as Markdown."""
    lines = [
        "# Metrics",
        "",
        "Generated from the tables of families by `make generate`; names are a contract, units are base units.",
    ]
    for title, text, common, families in TABLES:
        lines += ["", f"## {title}", "", *([text, ""] if text else [])]
        lines += ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += list(_rows(families, common))
    return "\n".join(lines) + "\n"


def _rows(families: Sequence[Family[Any]], common: tuple[str, ...]) -> Iterator[str]:
    for family in families:
        labels = ", ".join(f"`{label}`" for label in (*common, *family.labels)) or "none"
        yield f"| `{family.name}` | {family.type} | {labels} | {family.help} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file, or with --check compare it; exit code 1 when it differs."""
    parser = argparse.ArgumentParser(prog="python -m training_exporter.reference", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="only say whether the file is what would be written")
    args = parser.parse_args(argv)
    if not args.check:
        args.file.write_text(render(), encoding="utf-8")
        return 0
    if args.file.exists() and args.file.read_text(encoding="utf-8") == render():
        return 0
    print(f"{args.file} is not what the tables of families say; run: make generate", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
