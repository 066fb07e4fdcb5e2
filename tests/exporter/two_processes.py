"""What each process of test_only_the_first_process_speaks does."""

import sys
from pathlib import Path

from test_huggingface import make_trainer

from training_exporter import attach

if __name__ == "__main__":
    trainer = make_trainer(Path(sys.argv[1]), ddp_backend="gloo")
    callback = attach(trainer, "r", port=0, gpu=False)
    trainer.train()
    # Written at once, line and end: the two share a pipe.
    sys.stdout.write(f"rank {trainer.args.process_index} has {'a monitor' if callback.monitor else 'none'}\n")
    sys.stdout.flush()
