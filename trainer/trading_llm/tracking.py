"""The run in TensorBoard and Weights & Biases: sinks of the exporter's events, which /metrics is made of, too.

Scalars have the names that Hugging Face's callbacks give them, one point per optimizer step.
"""

import importlib.util
import json
import logging
import netrc
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainingArguments

from trading_llm.settings import TrainSettings

if TYPE_CHECKING:
    from training_exporter import Monitor, RunState

log = logging.getLogger(__name__)

QUEUE_LENGTH = 10_000
"""Points that may wait for the disk before TensorBoard's writer makes the training wait."""
WANDB_PROJECT = "trading-llm"


def scalars(event: Any, state: "RunState") -> dict[str, float]:
    """What an event says, by tag; empty for one that is no figure."""
    if event.kind == "loss_logged":
        found = {
            "train/loss": event.loss,
            "train/grad_norm": event.gradient_norm,
            "train/learning_rate": state.learning_rate,
            "train/epoch": event.epoch,
            "train/tokens_per_second": state.tokens_per_second,
            "train/num_input_tokens_seen": state.tokens,
        }
    elif event.kind == "evaluated":
        found = {
            "eval/loss": event.loss,
            "eval/perplexity": state.validation_perplexity,
            "eval/runtime": event.runtime_seconds,
        }
    else:
        return {}
    return {tag: float(value) for tag, value in found.items() if value is not None}


class TensorBoard:
    """A sink that writes event files into `<output-dir>/runs`."""

    def __init__(self, settings: TrainSettings, args: TrainingArguments) -> None:
        self.writer = SummaryWriter(str(settings.output_dir / "runs"), max_queue=QUEUE_LENGTH)
        # As Hugging Face's callback does, for `training-exporter backtest`; but every step is logged here.
        self.writer.add_text("args", json.dumps({**args.to_sanitized_dict(), "logging_steps": 1}, default=str))

    def __call__(self, event: Any, state: "RunState") -> None:
        for tag, value in scalars(event, state).items():
            self.writer.add_scalar(tag, value, event.step, walltime=event.time)
        if event.kind == "run_ended":
            self.writer.flush()


class WeightsAndBiases:
    """A sink that logs to a run of W&B; an event is handed to the service process of wandb."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, event: Any, state: "RunState") -> None:
        if values := scalars(event, state):
            self._run.log({**values, "train/global_step": event.step})
        if event.kind == "run_ended":
            self._run.summary["state"] = event.state
            self._run.finish(exit_code=0 if event.state == "completed" else 1)


def add_trackers(monitor: "Monitor", settings: TrainSettings, args: TrainingArguments) -> SummaryWriter:
    """TensorBoard always; W&B where it is installed and either logged in or told its mode (WANDB_MODE=offline).

    Returns TensorBoard's writer, for what is no figure of an event.
    """
    board = TensorBoard(settings, args)
    monitor.add_sink(board)
    mode = os.environ.get("WANDB_MODE", "")
    wanted = settings.wandb and mode != "disabled" and (mode or _logged_in())
    if not wanted or importlib.util.find_spec("wandb") is None:
        return board.writer
    try:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT), name=monitor.run, dir=str(settings.output_dir),
            config={**settings.described(), "batch_size": settings.batch_size}, mode=mode or None,
        )  # fmt: skip
        run.define_metric("*", step_metric="train/global_step")
    except Exception as error:
        log.warning("Weights & Biases could not start; the training goes on without it: %s", error)
        return board.writer
    monitor.add_sink(WeightsAndBiases(run))
    return board.writer


def _logged_in() -> bool:
    """Whether `wandb login` was done, without the seconds that importing it takes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
