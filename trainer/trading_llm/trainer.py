"""The Trainer of this job: exact validation loss, and another try with a smaller batch when memory is out."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from trading_llm.data import IGNORED
from training_exporter import is_out_of_memory


class OwnWork:
    """How long this process worked for itself in an optimizer step: fetching its batches, and their forward passes.

    On a CUDA device the passes lie between events, which are read when the device has passed them, never waited for.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._fetch_began = self._fetch = self._passes = self._last = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def fetching(self) -> None:
        self._fetch_began = time.perf_counter()

    def fetched(self) -> None:
        self._fetch = time.perf_counter() - self._fetch_began

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        if self._cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._passes += time.perf_counter() - began

    def seconds(self) -> float:
        """Of the step before this one and the fetching of this one; on a busy device of the last step that is known."""
        if self._cuda:
            events, self._events = self._events, []
            if events and all(end.query() for _, end in events):
                self._last = sum(begin.elapsed_time(end) for begin, end in events) / 1e3
        else:
            self._last, self._passes = self._passes, 0.0
        return self._last + self._fetch


class CompletionTrainer(Trainer):
    """`smaller_batch` is asked when memory is out: it may change the arguments and say from which checkpoint to go on
    ("" for the beginning); None, or no such function, ends the training with the error."""

    smaller_batch: Callable[[str], str | None] | None = None

    job_figures: torch.Tensor | None = None
    """In a distributed job, for `attach`: (processes, 2), each process' tokens in this step, and its seconds of own
    work (waiting for data, forward passes) in the one before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._work = OwnWork(self.args.device.type)
        if self.is_fsdp_enabled:
            # Whole adapters, put together from all processes: they are small. Saved in shards, which is accelerate's
            # default, they could be neither used nor taken back when the training ends with its best model.
            plugin = self.accelerator.state.fsdp_plugin
            plugin.state_dict_config = plugin.optim_state_dict_config = None
            plugin.set_state_dict_type("FULL_STATE_DICT")

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self._work.fetching()
        return super().get_batch_samples(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.args.world_size == 1 or not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        with self._work.forward():
            return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The Trainer's own way gathers one number from all processes; here two more travel with it."""
        if self.args.world_size == 1 or not self.args.average_tokens_across_devices or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        self._work.fetched()
        targets = sum(b.get("shift_labels", b["labels"][..., 1:]).ne(IGNORED).sum() for b in batch_samples)
        tokens = sum(
            mask.sum() if (mask := b.get("attention_mask")) is not None and mask.dim() == 2 else b["input_ids"].numel()
            for b in batch_samples
        )
        own = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in (targets, tokens)]
        own.append(torch.as_tensor(self._work.seconds(), dtype=torch.float64).to(device, non_blocking=True))
        gathered = self.accelerator.gather(torch.stack(own)[None])
        self.job_figures = gathered[:, 1:]
        return gathered[:, 0].sum().long()

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        if self.smaller_batch is None:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        # Adapters as they are before the first step, should the training have to begin again.
        first = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        while True:
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
            except Exception as error:
                if not is_out_of_memory(error):
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
