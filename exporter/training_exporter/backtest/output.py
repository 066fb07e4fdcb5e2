"""What a person sees: a progress bar on the terminal, and the report as a table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from training_exporter.backtest import replay


@contextlib.contextmanager
def progress_bar() -> Iterator[replay.Progress]:
    """A bar on standard error while it is a terminal; nothing otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, share: None
        return
    columns = (BarColumn(30), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, completed=share, description=what)


def print_table(report: replay.Report) -> None:
    """The report on standard output, in 80 columns or the terminal's width."""
    console = Console(file=sys.stdout, highlight=False)
    console = Console(file=sys.stdout, highlight=False, width=max(80, console.width))
    for run in report.runs:
        steps = f"{run.max_steps} steps" if run.max_steps else "steps unknown"
        console.print(Text.assemble((run.run, "bold"), f"  {steps}  {run.source}"), soft_wrap=True)
        if not run.alerts:
            console.print(Text("  no alert"))
            continue
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for title in ("  alert", "severity"):
            table.add_column(title, no_wrap=True)
        for title in ("step", "of run", "cleared"):
            table.add_column(title, justify="right", no_wrap=True)
        for alert in run.alerts:
            share = f"{alert.step / run.max_steps:.0%}" if run.max_steps else ""
            cleared = "" if alert.cleared_step is None else str(alert.cleared_step)
            color = {"critical": "red", "warning": "yellow"}.get(alert.severity or "", "")
            table.add_row(Text(f"  {alert.alert}"), Text(alert.severity or "", color), str(alert.step), share, cleared)
        console.print(table)
    alerted = sum(bool(run.alerts) for run in report.runs)
    console.print(Text(f"{len(report.runs)} runs, {alerted} of them with an alert"))
    for line in report.errors:
        console.print(Text(f"not read: {line}"), soft_wrap=True)
