"""What `torchrun` starts in `test_distributed.py`: `trading-llm` with a second process whose data comes late."""

import os
import sys
import time

from trading_llm import cli, training

LATE_SECONDS = 0.4

if os.environ.get("RANK") == "1":

    class Late(training.RowCollator):
        def __call__(self, items: object) -> object:
            time.sleep(LATE_SECONDS)
            return super().__call__(items)

    training.RowCollator = Late

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
