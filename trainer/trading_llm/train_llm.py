"""The guide's own command: `python -m trading_llm.train_llm train ...`."""

import sys

from trading_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
