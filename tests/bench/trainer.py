"""`make bench-trainer`: tokens/s and peak memory of `trading-llm train` beside the plain way, in one run.

The plain way is transformers' Trainer with PEFT and padded batches, as its documentation has it; model, data, order of
the records, LoRA, optimizer and precision are the same. Each measurement is a process of its own; the two take turns,
so that what else the machine does meets both. What to read is the ratio; tokens are those that are no padding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP_STEPS = 3
WAYS = {
    "plain": "transformers Trainer, PEFT, padded batches",
    "padded": "trading-llm train --no-padding-free",
    "ours": "trading-llm train",
}


class Clock:
    """Tokens, wall seconds and CPU seconds of the steps after the warm-up, and the peak memory of the training."""

    def __init__(self, trainer: Any, steps: int) -> None:
        from transformers import TrainerCallback

        collate, self.tokens = trainer.data_collator, []

        def counted(items: list[Any]) -> Any:
            self.tokens.append(sum(len(item["input_ids"]) for item in items))
            return collate(items)

        trainer.data_collator = counted
        clock, self.times = self, []

        class Ticks(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clock.times.append((time.perf_counter(), time.process_time()))

        trainer.add_callback(Ticks())
        arguments = trainer.args
        arguments.max_steps, arguments.save_strategy, arguments.eval_strategy = steps, "no", "no"
        arguments.load_best_model_at_end = False
        self.before = _resident()

    def result(self) -> dict[str, float]:
        (wall, cpu), (wall_end, cpu_end) = self.times[WARM_UP_STEPS - 1], self.times[-1]
        return {
            "tokens": sum(self.tokens[WARM_UP_STEPS : len(self.times)]),
            "wall": wall_end - wall,
            "cpu": cpu_end - cpu,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before,
        }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(way: str, steps: int, output: Path) -> dict[str, float]:
    """In a process of its own."""
    import torch

    from trading_llm.settings import TrainSettings
    from trading_llm.training import prepare, quiet, watched

    quiet()
    settings = TrainSettings(
        output_dir=output, train_data=output.parent / "data" / "train_data.json", threads=1, metrics_port=0,
        padding_free=way != "padded",
    )  # fmt: skip
    prepared = prepare(settings)
    if way != "plain":
        watch = watched(prepared, settings)
        clock = Clock(prepared.trainer, steps)
        prepared.trainer.train()
        watch.monitor.close()
        return clock.result()

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from trading_llm.model import EMBEDDED_DIRECTORY

    torch.manual_seed(settings.seed)
    items = [{key: value.tolist() for key, value in item.items()} for item in prepared.data.items]
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_DIRECTORY, dtype=torch.float32)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
    )  # fmt: skip
    trainer = Trainer(
        get_peft_model(model, lora),
        TrainingArguments(
            str(output), per_device_train_batch_size=settings.batch_size, learning_rate=settings.peak_learning_rate,
            seed=settings.seed, report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
            remove_unused_columns=False, logging_strategy="no",
        ),
        train_dataset=items,
        data_collator=DataCollatorForSeq2Seq(prepared.tokenizer, label_pad_token_id=-100),
    )  # fmt: skip
    clock = Clock(trainer, steps)
    trainer.train()
    return clock.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=23, help="per measurement, the first 3 not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps, options.output)))
        return 0
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate = ["-m", "trading_llm.train_llm", "generate", "--output-dir", str(folder / "data")]
        subprocess.run([sys.executable, *generate], check=True, stdout=subprocess.DEVNULL)
        for number in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "tests.bench.trainer", "--measure", way, "--steps", str(options.steps)]
                done = subprocess.run(
                    [*command, "--output", str(folder / f"{way}-{number}")],
                    check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"round {number + 1}, {way}: {found[way][-1]}", file=sys.stderr, flush=True)
    print(f"{'':46} tokens/s   tokens per CPU second   peak memory")
    for way, name in WAYS.items():
        wall, cpu, peak = (
            [run["tokens"] / run["wall"] for run in found[way]],
            [run["tokens"] / run["cpu"] for run in found[way]],
            [run["peak"] / 2**20 for run in found[way]],
        )
        ratios = [
            statistics.median(theirs[key] / mine[key] for theirs, mine in zip(found["plain"], found[way], strict=True))
            for key in ("wall", "cpu")
        ]
        of_peak = statistics.median(
            mine["peak"] / theirs["peak"] for theirs, mine in zip(found["plain"], found[way], strict=True)
        )
        print(
            f"{name:46} {statistics.median(wall):8.0f} {ratios[0]:.2f}x {statistics.median(cpu):8.0f} {ratios[1]:.2f}x "
            f"{statistics.median(peak):8.0f} MiB {of_peak:.2f}x"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
