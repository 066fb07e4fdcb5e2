"""The Trainer of this job: exact validation loss, and another try with a smaller batch when memory is out."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from trading_llm.data import IGNORED
from training_exporter import is_out_of_memory


class CompletionTrainer(Trainer):
    """`smaller_batch` is asked when memory is out: it may change the arguments and say from which checkpoint to go on
    ("" for the beginning); None, or no such function, ends the training with the error."""

    smaller_batch: Callable[[str], str | None] | None = None

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        # Adapters as they are before the first step, should the training have to begin again.
        first = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        while True:
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
            except Exception as error:
                if self.smaller_batch is None or not is_out_of_memory(error):
                    raise
                resume_from_checkpoint = self.smaller_batch(str(error).partition("\n")[0])
                if resume_from_checkpoint is None:
                    raise
            # Out of the `except`: until then the error's traceback holds on to the tensors of the failed step.
            self._start_over(first)

    def _start_over(self, parameters: dict[str, torch.Tensor]) -> None:
        self.optimizer = self.lr_scheduler = None
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        self.model.zero_grad(set_to_none=True)
        self._train_batch_size = self.args.train_batch_size
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in parameters:
                    parameter.copy_(parameters[name])

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        targets = inputs.get("shift_labels", inputs["labels"][..., 1:]).ne(IGNORED).sum()
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        self._evaluated += torch.stack([loss.double() * targets.to(loss.device), targets.to(loss.device).double()]).to(
            self._evaluated.device
        )
        return loss, logits, labels

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The loss per token of all the validation data; Trainer's own is the mean over its batches."""
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        averaging, self.args.average_tokens_across_devices = self.args.average_tokens_across_devices, False
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        finally:
            self.args.average_tokens_across_devices = averaging
        total, targets = self.accelerator.reduce(self._evaluated, "sum").tolist()
        if targets:
            output.metrics[f"{metric_key_prefix}_loss"] = total / targets
        return output
