"""How long does a scrape take while a training holds the interpreter, and how much does it slow the training down?

One training, scraped and not in blocks of steps, by a process of its own as Prometheus does it: over one connection.
It scrapes many times a second, because what one scrape costs every five seconds is far below the noise of any machine;
the cost of one scrape, which can be measured, divided by the interval is the slow-down.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.measuring import estimate, milliseconds, percentile, table

PER_SECOND = 10
PAIRS = 80
INTERVALS = (1, 5, 15)


def scrape_while_told(url: str) -> None:
    """Scrape `url` PER_SECOND times a second from a line `1` on standard input to a line `0`; at its end print the
    seconds of each scrape and the bytes of the page. The first scrape does not count: it makes the connection."""
    parts = urlsplit(url)
    context = ssl._create_unverified_context()
    connection: Any = (
        http.client.HTTPSConnection(parts.netloc, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc)
    )
    on, ended = threading.Event(), threading.Event()
    seconds: list[float] = []
    size = 0

    def listen() -> None:
        for line in sys.stdin:
            (on.set if line.strip() == "1" else on.clear)()
        ended.set()
        on.set()

    threading.Thread(target=listen, daemon=True).start()
    while on.wait() and not ended.is_set():
        began = time.perf_counter()
        connection.request("GET", parts.path)
        size = len(connection.getresponse().read())
        seconds.append(time.perf_counter() - began)
        time.sleep(max(0.0, 1 / PER_SECOND - seconds[-1]))
    print(json.dumps([seconds[1:], size]))


@dataclass
class Scraped:
    """Seconds of each scrape; what one costs the training, in seconds, by pair of blocks; and the page's bytes."""

    latencies: list[float]
    costs: list[float]
    bytes: int


def measure(pairs: int, folder: Path, *, replay: bool = False, tls: bool = False) -> Scraped:
    from tests.bench.training import BLOCK, SETTLE, Switch, make_trainer, steps_for

    from training_exporter import attach

    options: dict[str, Any] = {"port": 0, "linger_seconds": 0, "gpu": replay}
    if tls:
        options["web_config"] = _web_config(folder)
    with _replayed_gpu() if replay else contextlib.nullcontext():
        trainer = make_trainer(folder, steps_for(pairs))
        callback = attach(trainer, "bench", output_dir=folder, **options)
    monitor = callback.monitor
    assert monitor is not None
    assert monitor.url is not None
    command = [sys.executable, "-m", "tests.bench.scraping", monitor.url]
    scraper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert scraper.stdin is not None
    stdin, blocks = scraper.stdin, 0

    def turn(on: bool) -> None:
        nonlocal blocks
        blocks += on
        stdin.write("1\n" if on else "0\n")
        stdin.flush()

    switch = Switch(turn)
    trainer.add_callback(switch)
    gc.collect()
    gc.freeze()
    trainer.train()
    gc.unfreeze()
    output, _ = scraper.communicate()
    latencies, size = json.loads(output.strip().splitlines()[-1])
    monitor.close()
    # Scrapes in those steps of a block that count.
    per_block = len(latencies) / blocks * (BLOCK - SETTLE) / BLOCK
    return Scraped(latencies, [(on - off) * (BLOCK - SETTLE) / per_block for off, on in switch.walls], size)


def measure_supervised(pairs: int) -> Scraped:
    """The same training below `training-exporter run`, which serves the page in its place."""
    command = [sys.executable, "-m", "training_exporter.cli", "run", "--port", "0", "--no-gpu", "--linger", "0", "--"]
    command += [sys.executable, "-m", "tests.bench.scraping", "--pairs", str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Scraped(**json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"latencies"'))))


@contextlib.contextmanager
def _replayed_gpu() -> Any:
    """In it a Monitor reads a capture in place of the driver, through the same code."""
    import training_exporter.monitor as module
    from training_exporter.gpu import open_gpu_collector
    from training_exporter.gpu.replay import CAPTURES, ReplayNvml, load

    before = module.open_gpu_collector
    module.open_gpu_collector = lambda: open_gpu_collector(nvml=ReplayNvml(load(CAPTURES / "healthy.json")))
    try:
        yield
    finally:
        module.open_gpu_collector = before


def _web_config(folder: Path) -> Path:
    """TLS with a certificate made for this."""
    certificate, key, config = folder / "cert.pem", folder / "key.pem", folder / "web.yml"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    config.write_text(f"tls_server_config: {{cert_file: {certificate}, key_file: {key}}}\n")
    return config


WAYS: dict[str, dict[str, bool] | None] = {
    "plain": {},
    "with a GPU (replayed capture, not a driver)": {"replay": True},
    "TLS": {"tls": True},
    "below `training-exporter run`": None,
}


def main(quick: bool = False) -> None:
    rows, slower = [], []
    pairs = 8 if quick else PAIRS
    for name, options in WAYS.items():
        if options is None:
            found = measure_supervised(pairs)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(pairs, Path(folder), **options)
        latencies, cost = found.latencies, estimate(found.costs)
        rows.append((
            name, f"{found.bytes / 1000:.0f} kB", len(latencies), milliseconds(percentile(latencies, 0.5)),
            milliseconds(percentile(latencies, 0.99)), milliseconds(max(latencies)),
        ))  # fmt: skip
        slower.append((
            name, f"{cost.value * 1e3:.2f} ms ({cost.low * 1e3:.2f} to {cost.high * 1e3:.2f})",
            *(f"{cost.value / each:.3%} ({cost.low / each:.3%} to {cost.high / each:.3%})" for each in INTERVALS),
        ))  # fmt: skip
    table("A scrape beside a training", ("", "page", "scrapes", "median", "99th percentile", "longest"), rows)
    table(
        "Slow-down of the training by scrapes",
        ("", "one scrape costs the training (95 %)", *(f"every {each} s" for each in INTERVALS)),
        slower,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--pairs", type=int)
    given = parser.parse_args()
    if given.url:
        scrape_while_told(given.url)
    else:
        with tempfile.TemporaryDirectory() as place:
            print("\n" + json.dumps(dataclasses.asdict(measure(given.pairs, Path(place)))), flush=True)
