"""`make bench-trainer`: tokens/s and peak memory of `trading-llm train` beside the plain way, in one run.

The plain way is transformers' Trainer with PEFT and padded batches, as its documentation has it; where TRL is installed
(`.venv/bin/python -m pip install trl`), also its SFTTrainer. Model, data, order of the records, LoRA, optimizer and
precision are the same. Each measurement is a process of its own; the ways take turns, so that what else the machine
does meets all. What to read is the ratio; tokens are those that are no padding. Two sets of data: the generator's, with
records of about the same length, and one of mixed lengths.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
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
    "trl": "TRL SFTTrainer, PEFT, padded batches",
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


def mixed(source: Path, target: Path) -> None:
    """Records of mixed lengths: one to five explanations, half of the records one, half of their figures or all."""
    from trading_llm.dataset import prompt_and_completion
    from trading_llm.examples import read_examples

    draw, records = random.Random(1), read_examples(source)
    with target.open("w", encoding="utf-8") as file:
        for record in records:
            count = draw.choices((1, 2, 3, 4, 5), (8, 4, 2, 1, 1))[0]
            prompt, completion = prompt_and_completion(record)
            lines = prompt.splitlines()
            prompt = "\n".join(lines[: draw.choice((len(lines) // 2, len(lines)))])
            parts = [completion, *(prompt_and_completion(draw.choice(records))[1] for _ in range(count - 1))]
            file.write(json.dumps({"prompt": prompt, "completion": "".join(parts)}) + "\n")


def measure(way: str, steps: int, data: Path, output: Path) -> dict[str, float]:
    """In a process of its own."""
    import torch

    from trading_llm.settings import TrainSettings
    from trading_llm.training import prepare, quiet, watched

    quiet()
    settings = TrainSettings(
        output_dir=output, train_data=data, threads=1, metrics_port=0,
        padding_free=way != "padded",
    )  # fmt: skip
    prepared = prepare(settings)
    if way not in {"plain", "trl"}:
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
    common: dict[str, Any] = {
        "output_dir": str(output), "per_device_train_batch_size": settings.batch_size, "seed": settings.seed,
        "learning_rate": settings.peak_learning_rate, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False, "remove_unused_columns": False, "logging_strategy": "no",
    }  # fmt: skip
    collate = DataCollatorForSeq2Seq(prepared.tokenizer, label_pad_token_id=-100)
    trainer: Any
    if way == "plain":
        trainer = Trainer(
            get_peft_model(model, lora), TrainingArguments(**common), train_dataset=items, data_collator=collate
        )
    else:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(
            model,
            # As on the other ways: fp32, no checkpointing; the data are tokenized already.
            SFTConfig(**common, bf16=False, gradient_checkpointing=False,
                      dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_list(items),
            data_collator=collate,
            processing_class=prepared.tokenizer,
            peft_config=lora,
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
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps, options.data, options.output)))
        return 0
    ways = {way: name for way, name in WAYS.items() if way != "trl" or importlib.util.find_spec("trl")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate = ["-m", "trading_llm.train_llm", "generate", "--output-dir", str(folder / "data")]
        subprocess.run([sys.executable, *generate], check=True, stdout=subprocess.DEVNULL)
        data = {"records of about one length": folder / "data" / "train_data.json", "mixed": folder / "mixed.jsonl"}
        mixed(data["records of about one length"], data["mixed"])
        for kind, file in data.items():
            found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for number in range(options.rounds):
                for way in ways:
                    command = [sys.executable, "-m", "tests.bench.trainer", "--measure", way, "--data", str(file)]
                    done = subprocess.run(
                        [*command, "--steps", str(options.steps), "--output", str(folder / f"{way}-{number}")],
                        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                    )  # fmt: skip
                    found[way].append(json.loads(done.stdout.splitlines()[-1]))
                    print(f"round {number + 1}, {way}: {found[way][-1]}", file=sys.stderr, flush=True)
            show(kind, ways, found)
    return 0


def show(kind: str, ways: dict[str, str], found: dict[str, list[dict[str, float]]]) -> None:
    """The table of one set of data."""
    print(f"{kind:46} tokens/s   tokens per CPU second   peak memory", flush=True)
    for way, name in ways.items():
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
            f"{statistics.median(peak):8.0f} MiB {of_peak:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
