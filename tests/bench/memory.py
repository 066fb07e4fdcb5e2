"""`python -m tests.bench.memory`: the memory that `--dry-run` estimates beside what a training really takes.

On the CPU, each training a process of its own: what its resident memory has grown by at most, from before the model is
loaded to the end of a few steps. The models are random Llamas; their shapes are what matters.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 4
SHAPES: dict[str, dict[str, int]] = {
    "embedded": {},
    "16M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
            "num_key_value_heads": 6, "vocab_size": 8192},
    "60M": {"hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 10, "num_attention_heads": 10,
            "num_key_value_heads": 5, "vocab_size": 16000},
    "60M, vocabulary 64k": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
                            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 64000},
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("embedded", {}),
    ("embedded", {"padding_free": False}),
    ("embedded", {"batch_size": 32}),
    ("16M", {}),
    ("16M", {"gradient_checkpointing": True}),
    ("60M", {}),
    ("60M", {"batch_size": 2}),
    ("60M", {"gradient_checkpointing": True}),
    ("60M", {"quantization": "4bit", "batch_size": 4}),
    ("60M, vocabulary 64k", {"batch_size": 4}),
]


def measure(shape: str, options: dict[str, Any], folder: Path) -> dict[str, float]:
    """In a process of its own: bytes that were estimated, and taken."""
    import torch
    from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

    from trading_llm.model import EMBEDDED_DIRECTORY, load_base
    from trading_llm.plan import estimate
    from trading_llm.settings import TrainSettings
    from trading_llm.training import prepare, quiet

    quiet()
    torch.set_num_threads(1)
    base = "embedded"
    if SHAPES[shape]:
        base = str(folder / "base")
        load_base("embedded", "none")[1].save_pretrained(base)
        if not (folder / "base" / "model.safetensors").exists():
            LlamaForCausalLM(LlamaConfig(**SHAPES[shape], pad_token_id=0)).save_pretrained(base)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # with nothing of it in memory
    settings = TrainSettings(
        base_model=base, train_data=folder.parent / "data" / "train_data.json", output_dir=folder / "out", threads=1,
        **options,
    )  # fmt: skip
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    prepared = prepare(settings)
    arguments = prepared.trainer.args
    arguments.max_steps, arguments.save_strategy, arguments.eval_strategy = STEPS, "no", "no"
    arguments.load_best_model_at_end = False
    prepared.trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    config = AutoConfig.from_pretrained(EMBEDDED_DIRECTORY if base == "embedded" else base)
    memory, _ = estimate(config, settings, prepared.data.statistics.percentile_95)
    return {"taken": peak - before, "estimated": memory.total, "weights": memory.weights,
            "adapters": memory.adapters, "activations": memory.activations}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(*CASES[options.case], options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        generate = ["-m", "trading_llm.train_llm", "generate", "--output-dir", f"{name}/data", "--records", "300"]
        subprocess.run([sys.executable, *generate], check=True, stdout=subprocess.DEVNULL)
        print(f"{'model':20} {'settings':42} estimated     taken   error")
        for number, (shape, settings) in enumerate(CASES):
            command = [sys.executable, "-m", "tests.bench.memory", "--case", str(number)]
            done = subprocess.run(
                [*command, "--folder", f"{name}/{number}"],
                check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            said = ", ".join(f"{key} {value}" for key, value in settings.items())
            print(
                f"{shape:20} {said:42} {found['estimated'] / 2**20:5.0f} MiB {found['taken'] / 2**20:5.0f} MiB "
                f"{found['estimated'] / found['taken'] - 1:+6.0%}   {found}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
