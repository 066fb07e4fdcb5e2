"""What ends a training before its last step: signals, a loss that is no number, no progress in evaluations."""

import math
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from trading_llm.errors import RunFailed
from training_exporter import PrometheusCallback

if TYPE_CHECKING:
    from training_exporter import RunState


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; the checkpoint is saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class EndBySignal(TrainerCallback):
    """While entered, SIGINT and SIGTERM end the training after the current step, with a checkpoint; twice = at once.

    In a distributed job the processes agree on a step, some after the first one's signal, through the store that they
    met in: one that stopped alone would leave the others waiting. Raises Interrupted when it is left after a signal.
    """

    def __init__(self, trainer: Trainer, watch: PrometheusCallback) -> None:
        self._watch = watch
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._store = _job_store() if trainer.args.world_size > 1 else None
        self._first = trainer.is_world_process_zero()
        trainer.add_callback(self)

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._signal is not None and kind is None:
            raise Interrupted(self._signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Interrupted(number)
        self._signal = number
        name = signal.Signals(number).name
        if self._first:
            print(f"{name}: saving a checkpoint after this step; once more ends at once", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if self._stops(state.global_step):
            number = self._signal or signal.SIGTERM
            self._watch.end_as("interrupted", signal.Signals(number).name)
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        return control

    def _stops(self, step: int) -> bool:
        if self._store is None:
            return self._signal is not None
        if self._signal is not None and self._first and not self._store.check(["stop"]):
            self._store.set("stop", str(step + STEPS_TO_AGREE))
        return self._store.check(["stop"]) and step >= int(self._store.get("stop"))


STEPS_TO_AGREE = 3
"""More than a process can be ahead of the first one: they meet in every step."""


def _job_store() -> Any:
    import torch.distributed

    return torch.distributed.PrefixStore("trading_llm", torch.distributed.distributed_c10d._get_default_store())


class EndByNaN(TrainerCallback):
    """A sink and a callback: fails the run in the step after the one whose loss was NaN or infinite."""

    def __init__(self) -> None:
        self._seen: str | None = None

    def __call__(self, event: Any, state: "RunState") -> None:
        if event.kind in {"loss_logged", "evaluated"} and not math.isfinite(event.loss) and self._seen is None:
            which = "training" if event.kind == "loss_logged" else "validation"
            self._seen = f"the {which} loss of step {event.step} is {event.loss}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._seen is not None:
            raise RunFailed(f"{self._seen}, and --stop-on nan ends the run there")


class EarlyStopping(EarlyStoppingCallback):
    """Ends the run as completed, and says why."""

    def __init__(self, patience: int, watch: PrometheusCallback) -> None:
        super().__init__(early_stopping_patience=patience)
        self._watch = watch

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop:
            patience = self.early_stopping_patience
            self._watch.end_as("completed", f"early stopping: no better validation loss in {patience} evaluations")


class KeepBest(TrainerCallback):
    """Saves a checkpoint of a model that is better in an evaluation than all before, and evaluates the last one."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> Any:
        if state.best_metric is None or metrics["eval_loss"] < state.best_metric:
            control.should_save = True
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        return control
