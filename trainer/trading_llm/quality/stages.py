"""At 20 %, 50 % and the end of a training: generate, score, and tell."""

import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from trading_llm.quality.generation import Prompt, generate, pick_prompts
from trading_llm.quality.scoring import mean_scores, score, stated_action
from training_exporter import events

if TYPE_CHECKING:
    from training_exporter import PrometheusCallback

log = logging.getLogger(__name__)

#: Share of the run at which each stage is due; the last one when the training is over.
SHARES = dict(zip(events.TEXT_STAGES, (0.2, 0.5, 1.0), strict=True))
#: Texts that go with the event, and characters of each: the journal keeps them.
SAMPLES, SAMPLE_CHARACTERS = 3, 2000
FOLDER = "samples"


class TextAssessment(TrainerCallback):  # type: ignore[misc]
    """Assesses the texts of a run. Add it after `attach`, so that its time is in no step's.

    A failure is logged and counted (`training_exporter_callback_errors_total{hook="text_quality"}`), and the training
    goes on. Files go to `<output_dir>/samples/<stage>.jsonl`, scores and texts to `writer`, and to Weights & Biases
    where a run of it is active.
    """

    def __init__(
        self,
        trainer: Trainer,
        watch: "PrometheusCallback",
        prompts: Sequence[Prompt],
        tokenizer: PreTrainedTokenizerBase,
        writer: SummaryWriter | None = None,
    ) -> None:
        self._trainer, self._watch, self._prompts, self._tokenizer = trainer, watch, prompts, tokenizer
        self._writer = writer
        self._due: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = {stage: max(1, round(share * state.max_steps)) for stage, share in SHARES.items() if share < 1}
        # What a resumed run has behind it was assessed then.
        self._due = {stage: step for stage, step in steps.items() if step > state.global_step}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = [stage for stage, step in self._due.items() if step <= state.global_step]
        for stage in due:
            del self._due[stage]
        if due and not control.should_training_stop:
            self._assess(due[-1], args, state)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Here also a training that was stopped early, by an evaluation, comes by; on_train_end would be too late: the
        # run has ended then. One that a signal ends is not waited for.
        if control.should_training_stop and self._watch.ending == "completed":
            self._assess(events.TEXT_STAGES[-1], args, state)

    def _assess(self, stage: str, args: Any, state: Any) -> None:
        monitor = self._watch.monitor
        if monitor is None:
            return
        with monitor.guard("text_quality"):
            self._watch.enter("evaluating")
            try:
                texts = generate(self._trainer.model, self._tokenizer, self._prompts)
            finally:
                self._watch.enter("training")
            records = [
                {"stage": stage, "step": state.global_step, "prompt": prompt.text, "text": text,
                 "reference": prompt.reference, "scores": score(prompt.text, text, stated_action(prompt.reference))}
                for prompt, text in zip(self._prompts, texts, strict=True)
            ]  # fmt: skip
            scores = mean_scores(record["scores"] for record in records)
            monitor.emit(
                events.TextScored(
                    time=time.time(), step=state.global_step, stage=stage, scores=scores, texts=len(records),
                    samples=tuple(
                        events.TextSample(r["prompt"][:SAMPLE_CHARACTERS], r["text"][:SAMPLE_CHARACTERS])
                        for r in records[:SAMPLES]
                    ),
                )
            )  # fmt: skip
            shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
            tqdm.write(f"Text quality, {stage} (step {state.global_step}): {shown}", file=sys.stdout)
            sys.stdout.flush()
            write_samples(Path(args.output_dir) / FOLDER / f"{stage}.jsonl", records)
            self._tell(stage, state.global_step, records, scores)

    def _tell(self, stage: str, step: int, records: list[dict[str, Any]], scores: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in scores.items():
                self._writer.add_scalar(f"text_quality/{name}", value, step)
            for number, record in enumerate(records, 1):
                both = f"{record['prompt']}\n\n-> {record['text'].lstrip()}"
                self._writer.add_text(f"samples/{number}", textwrap.indent(both, "    "), step)  # as it is, no Markdown
        # Only where something else has started a run of it; importing it here would take seconds.
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            table = wandb.Table(columns=["prompt", "text", "reference", *scores])
            for record in records:
                row = (record["scores"].get(name) for name in scores)
                table.add_data(record["prompt"], record["text"], record["reference"], *row)
            told = {f"text_quality/{name}": value for name, value in scores.items()}
            wandb.log({f"samples/{stage}": table, **told, "train/global_step": step})


def assess_texts(
    trainer: Trainer,
    watch: "PrometheusCallback",
    items: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    writer: SummaryWriter | None = None,
) -> None:
    """Have `trainer` assess `count` texts on prompts of the validation set `items`, where it can; else say why not."""
    if count == 0 or not trainer.is_world_process_zero():
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        print("Text quality is not assessed: no process of a sharded training has the whole model", flush=True)
        return
    prompts = pick_prompts(items, tokenizer, count) if items is not None else []
    if not prompts:
        print("Text quality is not assessed: it needs validation data", flush=True)
        return
    trainer.add_callback(TextAssessment(trainer, watch, prompts, tokenizer, writer))


def write_samples(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One JSON object per line; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    os.replace(part, path)
