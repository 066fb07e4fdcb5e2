"""`make bench-many RUNS=1000`: many runs on one Prometheus of this machine, with all rules.

The runs are those of `simulated_runs`, in a process of their own; Prometheus, Alertmanager and their configuration are
the real ones. The past that rules read is there from the start (`long_past`), so that they cost what they cost in the
middle of a week. Exit status 1: a group of rules took more than a fifth of its interval.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.bench.long_past import write_past
from tests.bench.simulated_runs import identity

from training_exporter.stack.launch import Servers, start_servers
from training_exporter.stack.query import Prometheus
from training_exporter.stack.servers import Stack

#: Share of its interval that the evaluation of a group may take.
ALLOWED_SHARE = 0.2


@dataclass
class Sample:
    """What Prometheus says about itself at one moment: values by name and group (None where there is none)."""

    time: float
    values: dict[tuple[str, str | None], float]

    @classmethod
    def of(cls, url: str) -> Sample:
        page = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
        values = {
            (sample.name, sample.labels.get("rule_group", "").rpartition(";")[2] or None): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if set(sample.labels) <= {"rule_group"}
        }
        return cls(time.monotonic(), values)

    def groups(self, name: str) -> dict[str, float]:
        return {group: value for (each, group), value in self.values.items() if each == name and group is not None}

    def __getitem__(self, name: str) -> float:
        return self.values[name, None]


def start(stack: Stack, work: Path, runs: int, hours: float) -> Servers:
    """The real servers with the runs' past, and the runs beside them."""
    if hours > 0:
        write_past([identity(number) for number in range(runs)], int(time.time()), hours, work / "prometheus")
    servers = start_servers(stack, work)
    command = [sys.executable, "-m", "tests.bench.simulated_runs", "--runs", str(runs), "--targets", servers.targets]
    stack.start("simulated_runs", command)
    return servers


def wait_scraped(prometheus: Prometheus, runs: int, seconds: float = 240.0) -> None:
    """Until every run has been scraped. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = prometheus.query('sum(up{job="training"})')
        if found and found[0][1] == runs:
            return
        time.sleep(1)
    raise TimeoutError(f"of {runs} runs Prometheus scrapes {found[0][1] if found else 0:.0f} after {seconds:g} s")


def measure(url: str, seconds: float) -> list[Sample]:
    """Prometheus' own figures, every five seconds."""
    samples, end = [Sample.of(url)], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(5)
        samples.append(Sample.of(url))
    return samples


def report(runs: int, prometheus: Prometheus, samples: list[Sample]) -> bool:
    """Print the figures; whether every group keeps within its share."""
    last, first = samples[-1], samples[0]
    seconds = last.time - first.time
    intervals = last.groups("prometheus_rule_group_interval_seconds")
    taken: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for group, value in sample.groups("prometheus_rule_group_last_duration_seconds").items():
            taken[group].append(value)
    missed = last.groups("prometheus_rule_group_iterations_missed_total")
    missed_before = first.groups("prometheus_rule_group_iterations_missed_total")
    series, resident = last["prometheus_tsdb_head_series"], last["process_resident_memory_bytes"]
    cpu = (last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]) / seconds
    states = prometheus.query("count by (alertname) (ALERTS{alertstate='firing',run!=''})")
    print(
        f"\n{runs} runs, {series:,.0f} series in the head, {seconds:.0f} s, rules every {min(intervals.values()):g} s"
    )
    firing = [f"{labels['alertname']} {value:.0f}" for labels, value in states]
    print(f"firing: {', '.join(sorted(firing))}\n")
    print("| group | interval | median | largest | largest, share of the interval | missed |")
    print("| --- | --- | --- | --- | --- | --- |")
    fits = True
    for group, values in sorted(taken.items(), key=lambda item: -statistics.median(item[1])):
        share = max(values) / intervals[group]
        fits = fits and share < ALLOWED_SHARE
        print(
            f"| {group} | {intervals[group]:g} s | {statistics.median(values) * 1e3:.0f} ms "
            f"| {max(values) * 1e3:.0f} ms | {share:.1%} | {missed[group] - missed_before[group]:.0f} |"
        )
    per_second = sum(statistics.median(values) / intervals[group] for group, values in taken.items())
    print(f"\nall groups together: {per_second:.1%} of the time")
    print(f"Prometheus: {cpu:.2f} cores, {cpu / runs * 1e3:.2f} ms per second and run")
    print(f"            {resident / 2**20:.0f} MiB resident, {resident / runs / 2**10:.0f} KiB per run")
    costly = sorted(prometheus.rules(), key=lambda rule: -rule["evaluationTime"])[:8]
    named = [f"{rule['name']} {rule['evaluationTime'] * 1e3:.0f} ms" for rule in costly]
    print("costliest rules at the end:", ", ".join(named))
    return fits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--settle", type=float, default=75.0, help="how long to let the windows of the rules fill")
    parser.add_argument("--hours", type=float, default=1.1, help="past that is there from the start; up to 24 is read")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-many-"))
    try:
        with Stack(work / "logs") as stack:
            servers = start(stack, work, options.runs, options.hours)
            try:
                prometheus = Prometheus(servers.prometheus.url)
                wait_scraped(prometheus, options.runs)
                time.sleep(options.settle)
                fits = report(options.runs, prometheus, measure(servers.prometheus.url, options.seconds))
            finally:
                servers.inbox.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("every group keeps within" if fits else "a group takes more than", f"{ALLOWED_SHARE:.0%} of its interval")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
