"""Prometheus is away, or dies in the middle: what is lost of a run, and how it comes back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_world import Watch, kill, wait_until

from training_exporter import Monitor, events
from training_exporter.cli import main
from training_exporter.journal import JOURNAL_NAME, read
from training_exporter.stack.servers import Stack


class Training:
    """A run that makes a step every 50 ms in a thread of its own; the loss is the number of the step."""

    def __init__(self, run: str, work: Path) -> None:
        self.output = work / run
        self.monitor = Monitor(
            run, output_dir=self.output, port=0, gpu=False, linger_seconds=5, targets_dir=work / "targets"
        )
        self.monitor.emit(events.RunStarted(time=time.time(), run=run, max_steps=100_000))
        self.step = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        while not self._over.wait(0.05):
            self.step += 1
            now = time.time()
            self.monitor.emit(events.StepEnded(time=now, step=self.step, tokens=10, duration_seconds=0.05))
            self.monitor.emit(events.LossLogged(time=now, step=self.step, loss=float(self.step)))

    def stop(self) -> None:
        """No step any more; the run is still there to be scraped."""
        self._over.set()
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self.monitor.end("interrupted")
        self.monitor.linger_seconds = 0
        self.monitor.close()


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    training = Training("r", tmp_path)
    yield training
    training.close()


def test_what_happened_while_prometheus_was_down(tmp_path: Path, training: Training) -> None:
    """Counters, sums and the present are right at the next scrape; the gauges in between are in the journal, from which
    `backfill` brings them into Prometheus."""
    with Stack(tmp_path / "logs") as stack:
        watch = Watch(stack, tmp_path)
        prometheus = watch.start()
        assert wait_until(lambda: watch.value("llm_training_steps_total > 5"))
        prometheus.stop()
        down = time.time()
        time.sleep(22)
        up = time.time()
        prometheus = watch.start()
        assert wait_until(lambda: (watch.value("timestamp(llm_training_steps_total)") or 0) > up)
        training.stop()
        last = training.step
        assert wait_until(lambda: watch.value("llm_training_steps_total") == last)
        # Nothing of what counts was lost, although nobody looked.
        assert watch.value("llm_training_observed_loss_count") == last
        assert watch.value("llm_training_observed_loss_sum") == sum(range(1, last + 1))
        assert watch.value("llm_training_tokens_total") == 10 * last
        assert watch.value("llm_training_step_duration_seconds_count") == last
        assert watch.value("increase(llm_training_steps_total[1h])") == pytest.approx(last, rel=0.2)

        # What nobody saw at its time: with live targets, half of the gap is beyond the staleness of five minutes.
        def at(seconds: float, more: str = "") -> list[float]:
            found = watch.get(
                f"/api/v1/query?time={seconds}&query=last_over_time(llm_training_loss%7Brun%3D%22r%22{more}%7D%5B6s%5D)"
            )["result"]
            return [float(each["value"][1]) for each in found]

        middle = down + 15
        assert at(middle) == []

        assert main(["backfill", str(training.output), "--data-dir", str(watch.data)]) == 0
        # It takes blocks up by itself within a minute or two; a restart does at once.
        prometheus.stop()
        watch.start()
        (restored,) = at(middle, "%2Cinstance%3D%22backfill%22")
    losses = {
        event.time: event.loss for event in read(training.output / JOURNAL_NAME) if isinstance(event, events.LossLogged)
    }
    # On a grid of five seconds, so up to as much older.
    assert restored in {loss for seen, loss in losses.items() if middle - 11 < seen <= middle}


def test_kill_9_of_prometheus_keeps_what_it_had_scraped(tmp_path: Path, training: Training) -> None:
    """At moments between, before and in its writes, five times a second: every sample that it had is in its log."""
    moments = random.Random(1)
    with Stack(tmp_path / "logs") as stack:
        watch = Watch(stack, tmp_path, interval="200ms")
        seen = 0.0
        for _ in range(4):
            prometheus = watch.start()
            assert (watch.value("count_over_time(llm_training_loss[1h])") or 0) >= seen
            assert wait_until(lambda at=seen: (watch.value("count_over_time(llm_training_loss[1h])") or 0) > at)
            time.sleep(moments.uniform(0.2, 1.2))
            seen = watch.value("count_over_time(llm_training_loss[1h])") or 0
            kill(prometheus)
        watch.start()
        assert (watch.value("count_over_time(llm_training_loss[1h])") or 0) >= seen > 8
        assert watch.value("prometheus_tsdb_wal_corruptions_total") in {None, 0.0}
        training.stop()
        assert wait_until(lambda: watch.value("llm_training_observed_loss_count") == training.step)
