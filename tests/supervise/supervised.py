"""What the tests of `training-exporter run` share: a real command below a real supervisor, and its page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import waiting
from training_exporter import RunState, journal

#: A training without torch: `steps` steps, then what `then` says. `OUT` is the output directory.
TRAINING = """
import ctypes, os, signal, sys, time
from training_exporter import Monitor, events
out, steps, run = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
monitor = Monitor(run, output_dir=out, gpu=False)
monitor.emit(events.RunStarted(time=time.time(), run=monitor.run, max_steps=1000))
def step(number):
    monitor.emit(events.StepEnded(time=time.time(), step=number, duration_seconds=0.01))
    monitor.emit(events.LossLogged(time=time.time(), step=number, loss=2.0))
for number in range(1, steps + 1):
    step(number)
for writer in monitor._writers:
    writer.flush()
print("ready", flush=True)
"""


def wait_until(done: Callable[[], object], seconds: float = 30.0) -> bool:
    return bool(waiting.wait_until(done, seconds, 0.05))


@dataclass
class Supervised:
    """A supervisor that was started, and where its files are."""

    process: subprocess.Popen[str]
    folder: Path
    run: str

    @property
    def url(self) -> str | None:
        found = re.search(r"are at (\S+)", (self.folder / "stderr").read_text())
        return found[1] if found else None

    @property
    def out(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def journal(self) -> Path:
        return self.folder / "out" / journal.JOURNAL_NAME

    def state(self) -> RunState:
        """What the journal says."""
        state = RunState()
        for event in journal.read(self.journal):
            state.apply(event)
        return state

    def page(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """(name, labels without `run`) -> value, of this run; the page must parse."""
        assert self.url
        text = urllib.request.urlopen(self.url, timeout=5).read().decode()
        return {
            (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "run"))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("run", self.run) == self.run
        }

    def shows(self, name: str, value: float, **labels: str) -> bool:
        try:
            return self.url is not None and self.page().get((name, tuple(sorted(labels.items())))) == value
        except OSError:
            return False

    def shows_state(self, state: str) -> bool:
        return self.shows("llm_training_state", 1, state=state)

    def reason(self) -> str:
        return next(dict(labels)["reason"] for name, labels in self.page() if name == "llm_training_end_info")

    def last_page(self) -> tuple[str, str, float]:
        """Scrape until the end was seen; (state, reason, exit status) of it. Waits for the process."""
        seen: list[tuple[str, str, float]] = []

        def scrape() -> bool:
            try:
                page = self.page()
            except OSError:
                return self.process.poll() is not None
            status = page.get(("llm_training_process_exit_status", ()))
            if status is not None:
                state = next(dict(k[1])["state"] for k, v in page.items() if k[0] == "llm_training_state" and v == 1)
                reasons = [dict(labels)["reason"] for name, labels in page if name == "llm_training_end_info"]
                seen.append((state, reasons[0] if reasons else "", status))
            return self.process.poll() is not None

        assert wait_until(lambda: self.url), (self.folder / "stderr").read_text()
        assert wait_until(scrape), "the supervisor did not end"
        assert seen, f"the end was never shown: {(self.folder / 'stderr').read_text()}"
        return seen[-1]


def start(
    folder: Path,
    command: list[str | Path],
    *options: str,
    run: str = "r",
    named: bool = True,
    environment: dict[str, str] | None = None,
    **more: object,
) -> Supervised:
    """`training-exporter run` on any free port. It announces itself, so that its end waits for our first scrape."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu"]
            + (["--run", run] if named else [])
            + [*options, "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "TRAINING_EXPORTER_TARGETS_DIR": str(folder / "targets"),
                **(environment or {}),
            },
            text=True,
            **more,
        )
    return Supervised(process, folder, run)


def train(
    folder: Path, then: str, *options: str, steps: int = 20, run: str = "r", own: str = "", **more: object
) -> Supervised:
    """A training that does `then` after its steps; `own` is the name that it gives itself."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "training.py"
    script.write_text(TRAINING + then)
    command = [sys.executable, script, folder / "out", str(steps), own]
    return start(folder, command, *options, run=run, **more)  # type: ignore[arg-type]


def ready(supervised: Supervised) -> int:
    """Waits until the training has made its steps; the pid of its process."""
    assert wait_until(lambda: "ready" in supervised.out), (supervised.folder / "stderr").read_text()
    return child_of(supervised)


def child_of(supervised: Supervised) -> int:
    import psutil

    children = psutil.Process(supervised.process.pid).children()
    [pid] = [child.pid for child in children if "training_exporter.cli" not in child.cmdline()]
    return pid


def stop(supervised: Supervised) -> None:
    if supervised.process.poll() is None:
        supervised.process.send_signal(signal.SIGKILL)
        supervised.process.wait()
