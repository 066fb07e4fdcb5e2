"""`make labelled-runs`: real fine-tunings of the embedded model, healthy ones and ones with one injected fault.

Each run is one `trading-llm train` in a process of its own. What stays of it is `<output>/<run>/journal.jsonl`, and
its line in `<output>/labels.json`: `kind`, `signs` (one of them must fire; empty: healthy), `onset_step` (from the
journal's `fault_injected`; null: from the start), `max_steps`, `why`, and `also_ok` where other processes slowed it
down. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from run_labels import LABELS_FILE, Label, read_labels, write_labels

from training_exporter import journal
from training_exporter.events import Event, FaultInjected, RunStarted

OUTPUT = Path(".accuracy/runs")
HEALTHY_PER_ROUND = 5
RECORDS = 240
STEPS = 90
#: After so few steps nothing writes well: no texts are scored, and their fault could not be told from health.
LEFT_OUT = {"text_quality"}
#: RunStalled waits for two minutes and 20 step times, and 30 seconds more.
STALL_SECONDS = 200.0
LONGEST_SECONDS = 1200.0

#: Which signs answer a fault, where it is not the one of its name alone.
ALSO = {
    "loss_fluctuating": ("loss_rising",),  # half of the batches corrupt: the mean loss rises too
    "val_gap": ("val_diverging",),
}
#: Faults after which the run does not end with status 0; a signal's number is negative.
STATUS = {
    "oom": 1,
    "run_failed": 1,
    "run_vanished": -signal.SIGKILL,
    "run_stalled": 128 + signal.SIGTERM,
}
#: Faults that make the training wait.
WAITING = {"throughput_drop", "run_stalled"}
#: A run that got less of a core than this was slowed by other processes of the machine.
QUIET_SHARE = 0.8
#: These say by themselves when the run had to end; that of the others is by chance anywhere in its middle.
WHOLE_RUN = {"early_plateau", "val_diverging", "val_gap", "initial_perplexity"}


@dataclass(frozen=True)
class Plan:
    """One run to make."""

    name: str
    fault: str | None
    why: str
    options: tuple[str, ...]
    records: int
    data_seed: int


def plans(rounds: int, seed: int) -> list[Plan]:
    """Each round has every fault once and HEALTHY_PER_ROUND healthy runs, all of other settings and seeds."""
    from trading_llm.inject import FAULTS

    # The one that has to be waited for comes last.
    faults = sorted(set(FAULTS) - LEFT_OUT, key=lambda sign: (sign == "run_stalled", list(FAULTS).index(sign)))
    made = []
    for number in range(rounds):
        # Names and draws do not depend on the place, so that what was made stays when faults are added.
        order = [_plan(None, f"{seed}-{number}-{each}") for each in range(HEALTHY_PER_ROUND)]
        for place, sign in enumerate(faults):
            order.insert(2 * place + 1, _plan(sign, f"{seed}-{number}"))
        made += order
    return made


def _plan(sign: str | None, key: str) -> Plan:
    from trading_llm.inject import FAULTS

    draw = random.Random(f"{sign} {key}")
    batch = draw.choice((2, 4, 8) if sign is None else (4, 8))
    # What is told apart by the schedule needs one that moves.
    scheduler = draw.choice(("cosine", "linear") + (("constant_with_warmup",) if sign is None else ()))
    rate = draw.choice((5e-4, 8e-4, 1.2e-3) if sign is None else (6e-4, 8e-4, 1e-3))
    steps = STEPS * (8 // batch if sign is None else 1)  # small batches learn less in a step
    options = {
        "--batch-size": batch,
        "--learning-rate": rate,
        "--lr-scheduler": scheduler,
        "--seed": draw.randrange(10_000),
        "--num-epochs": round(steps * batch / RECORDS, 3),
        "--quality-prompts": 0,
    }
    settings = f"batch size {batch}, learning rate {rate:g}, {scheduler}"
    if sign is None:
        kind, why = "healthy", f"nothing injected; {settings}"
    else:
        kind, why = sign, f"{FAULTS[sign].what.replace('START', 'the onset')}; {settings}"
        options["--inject"] = sign if sign in WHOLE_RUN else f"{sign}@{draw.uniform(0.3, 0.7):.2f}"
    words = tuple(word for option in options.items() for word in map(str, option))
    return Plan(f"{kind}-{key}", sign, why, words, RECORDS, draw.randrange(10_000))


@dataclass(frozen=True)
class Ended:
    """How the process of a run ended; `core_share` is its CPU time per second, of the one core that it can use."""

    status: int
    core_share: float


def label_of(plan: Plan, events: Sequence[Event], core_share: float = 1.0) -> Label:
    """What is true of the run. Raises ValueError where the fault of the plan is not in its journal."""
    started = next(event for event in events if isinstance(event, RunStarted))
    fault = next((event for event in events if isinstance(event, FaultInjected)), None)
    if (fault.sign if fault else None) != plan.fault:
        raise ValueError(f"the journal tells of the fault {fault.sign if fault else None}, not of {plan.fault}")
    signs = (plan.fault, *ALSO.get(plan.fault, ())) if plan.fault else ()
    onset = fault.step if fault and fault.step > 1 and plan.fault not in WHOLE_RUN else None
    if onset and plan.fault in STATUS:
        onset -= 1  # the step of the fault is never completed, and alerts are dated by completed steps
    why, also_ok = plan.why, frozenset[str]()
    if core_share < QUIET_SHARE and plan.fault not in WAITING:
        why += f"; other processes left it {core_share:.0%} of a core, so that its pace did drop"
        also_ok = frozenset({"throughput_drop"})
    return Label(plan.fault or "healthy", frozenset(signs), onset, started.max_steps, why, forgiven=also_ok)


def train(plan: Plan, work: Path) -> int:
    """In a child process: makes the data and trains. Returns the exit status of `trading-llm train`."""
    log = os.open(work / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from trading_llm.cli import main

    generate = ["--records", str(plan.records), "--eval-records", "32", "--seed", str(plan.data_seed)]
    if status := main(["generate", "--output-dir", str(work / "data"), *generate]):
        return status
    fixed = ["--train-data", work / "data" / "train_data.json", "--output-dir", work / "model", "--threads", "1"]
    fixed += ["--run-name", plan.name, "--metrics-port", "0"]
    return main(["train", *map(str, fixed), *plan.options])


def wait(child: int, plan: Plan, journal_path: Path) -> Ended:
    """Until the child has ended; one that stalls on purpose, or for LONGEST_SECONDS, is ended."""
    try:
        return _wait(child, plan, journal_path)
    except BaseException:  # Ctrl-C or SIGTERM: nothing is left running
        os.kill(child, signal.SIGKILL)
        raise


def _wait(child: int, plan: Plan, journal_path: Path) -> Ended:
    begin, asked = time.monotonic(), 0
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            share = (usage.ru_utime + usage.ru_stime) / max(1e-3, time.monotonic() - begin)
            return Ended(os.waitstatus_to_exitcode(status), share)
        if time.monotonic() > begin + LONGEST_SECONDS:
            os.kill(child, signal.SIGKILL)
        if plan.fault == "run_stalled" and journal_path.exists():
            fault = next((e for e in journal.read(journal_path) if isinstance(e, FaultInjected)), None)
            if fault and asked < 2 and time.time() > fault.time + STALL_SECONDS:
                # The first asks for an end after the step that never ends; a third could hit the end itself.
                os.kill(child, signal.SIGTERM)
                asked += 1
                time.sleep(1)
        time.sleep(0.5)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, default=OUTPUT, help="folder of the runs (default: %(default)s)")
    each = f"each makes every fault once and {HEALTHY_PER_ROUND} healthy runs"
    add("--rounds", type=int, default=2, metavar="N", help=f"{each} (default: %(default)s)")
    add("--seed", type=int, default=1, help="of all that is drawn by chance (default: %(default)s)")
    add("--only", nargs="+", metavar="KIND", help="make these kinds of runs only (`healthy`, or a sign)")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"argument --rounds: found {options.rounds}; allowed: 1, 2, ...")
    # One core, one thread: the parent's imports are shared by all runs, and a fork must not find other threads.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")
    todo = plans(options.rounds, options.seed)
    kinds = {plan.fault or "healthy" for plan in todo}
    if unknown := set(options.only or ()) - kinds:
        parser.error(f"argument --only: found {', '.join(sorted(unknown))}; allowed: {', '.join(sorted(kinds))}")
    todo = [plan for plan in todo if not options.only or (plan.fault or "healthy") in options.only]
    options.output.mkdir(parents=True, exist_ok=True)
    labels_file = options.output / LABELS_FILE
    labels = read_labels(labels_file) if labels_file.exists() else {}
    work = options.output.parent / "work"
    failed = 0
    # One missing speed-up of bitsandbytes on the CPU; nothing that the user has to know.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import trading_llm.training  # noqa: F401  (seconds, once for all runs)

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for number, plan in enumerate(todo, 1):
        kept = options.output / plan.name / journal.JOURNAL_NAME
        if plan.name in labels and kept.exists():
            continue
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        written, begin = work / "model" / journal.JOURNAL_NAME, time.monotonic()
        print(f"{number}/{len(todo)} {plan.name}: {' '.join(plan.options)}", flush=True)
        child = os.fork()
        if child == 0:
            # Returned, not exited from here, so that the interpreter ends as that of `trading-llm` does.
            return train(plan, work)
        ended = wait(child, plan, written)
        try:
            if ended.status != STATUS.get(plan.fault or "", 0):
                raise ValueError(f"ended with status {ended.status}")
            label = label_of(plan, list(journal.read(written)), ended.core_share)
        except (ValueError, StopIteration) as error:
            failed += 1
            log = options.output.parent / f"failed-{plan.name}.txt"
            (work / "log.txt").replace(log)
            print(f"  not labelled: {error} (see {log})", file=sys.stderr, flush=True)
            continue
        kept.parent.mkdir(exist_ok=True)
        written.replace(kept)
        labels[plan.name] = label
        write_labels(labels_file, labels)
        onset = f"onset {label.onset_step}, " if label.onset_step else ""
        print(
            f"  {onset}{label.max_steps} steps, {time.monotonic() - begin:.0f} s, {ended.core_share:.0%} of a core",
            flush=True,
        )
    shutil.rmtree(work, ignore_errors=True)
    print(f"{len(labels)} labelled runs in {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
