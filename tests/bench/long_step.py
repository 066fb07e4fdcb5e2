"""What does a logged step cost where a step takes 70 ms, still less than any of a real fine-tuning?"""

from __future__ import annotations

from tests.bench.per_step import compare
from tests.bench.training import LONG

PAIRS, OUR_PAIRS = 10, 60


def main(quick: bool = False) -> None:
    pairs, our_pairs = (6, 6) if quick else (PAIRS, OUR_PAIRS)
    compare("A logged step of 70 ms", ("ours", "tensorboard"), pairs, our_pairs, LONG)
