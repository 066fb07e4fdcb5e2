"""`make bench`: what watching costs, each figure beside what it is compared with, measured in the same run.

    make bench                      all questions, some minutes; best on a machine that does nothing else
    make bench ONLY=step,scrape     some of them
    make bench QUICK=1              to see that it works; the figures say little

Each question is a module here. What comes out are the tables of docs/performance.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib
import logging
import sys
import time

from tests.bench.measuring import machine

#: Name, module.
QUESTIONS = {
    "parts": "internals",
    "step": "per_step",
    "long-step": "long_step",
    "start": "start_up",
    "scrape": "scraping",
    "delay": "delays",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"some of: {', '.join(QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works")
    options = parser.parse_args()
    chosen = [name for name in options.only.replace(",", " ").split() if name] or list(QUESTIONS)
    unknown = [name for name in chosen if name not in QUESTIONS]
    if unknown:
        parser.error(f"--only: found {', '.join(unknown)}, allowed: {', '.join(QUESTIONS)}")
    logging.disable(logging.WARNING)
    print(f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {machine()}", flush=True)
    for name in chosen:
        importlib.import_module(f"tests.bench.{QUESTIONS[name]}").main(quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
