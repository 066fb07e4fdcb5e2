"""A real Trainer below a supervisor: test_supervise_e2e runs it. Arguments: output directory, step of its kill -9."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "exporter"))

from test_huggingface import make_trainer
from transformers import TrainerCallback

from training_exporter import attach


class Paced(TrainerCallback):  # type: ignore[misc]
    """A step lasts a quarter of a second, so that Prometheus sees the run; one of them is the last."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.25)
        if state.global_step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    trainer = make_trainer(Path(sys.argv[1]), num_train_epochs=10, run_name="what the script calls it")
    attach(trainer, settings={"batch_size": 4, "gradient_accumulation_steps": 2})
    trainer.add_callback(Paced(int(sys.argv[2])))
    trainer.train()
