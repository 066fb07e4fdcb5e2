"""Command line: `trading-llm generate | train | infer | merge | demo`. Wrong input is one line and exit code 2."""

import argparse
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from trading_llm.errors import RunFailed, UsageError
from trading_llm.settings import (
    ATTENTIONS,
    EMBEDDED,
    EMBEDDED_LEARNING_RATE,
    LAST,
    OPTIMIZERS,
    PRECISIONS,
    QUANTIZATIONS,
    SCHEDULERS,
    STOPS,
    USUAL_LEARNING_RATE,
    TrainSettings,
)

try:
    from trading_llm import dataset
except ModuleNotFoundError as missing:  # the exporter alone is installed
    print(f"trading-llm: needs training-exporter[trainer] ({missing})", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (the training failed), 2 (wrong input), 130/143 (SIGINT/SIGTERM)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["demo"]:  # has its own options
        from trading_llm.demo import main as demo

        return demo(argv[1:])
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # One missing speed-up of bitsandbytes on the CPU; nothing that the user has to know.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # PyTorch's threads spin while they wait: beside any other busy process a step then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        options = parse(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except UsageError as error:
        print(f"trading-llm: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"trading-llm: the run failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return 128 + getattr(error, "number", signal.SIGINT)
    except Exception as error:
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        print(f"trading-llm: the run failed: {type(error).__name__}: {first_line}", file=sys.stderr)
        return 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of a command; those of `--config` hold where the command line says nothing. Raises UsageError."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if getattr(options, "config", None) is None:
        return options
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    from trading_llm.config import use_config

    use_config(commands.choices["train"], options.config)
    return parser.parse_args(argv)


def _number(
    kind: type[int] | type[float], least: float, most: float = math.inf, above: bool = False
) -> Callable[[str], Any]:
    """An argparse type that allows least <= number <= most (`above`: least < number)."""
    allowed = f"{'a whole number' if kind is int else 'a number'} {'above' if above else 'from'} {least:g}"
    allowed += f" to {most:g}" if math.isfinite(most) else ("" if above else " on")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)) or (above and value == least):
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {allowed}")
        return value

    return parse


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {', '.join(names)}")
        return text

    return parse


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a text that is not empty")
    return text


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trading-llm", description="Fine-tune a language model that explains trading decisions.")
    commands = parser.add_subparsers(required=True, metavar="{generate,train,infer,merge,demo}")
    _add_generate(commands.add_parser("generate", help="write a trading dataset"))
    _add_train(commands.add_parser("train", help="fine-tune with LoRA, watched by training-exporter"))
    _add_infer(commands.add_parser("infer", help="have a trained adapter write"))
    _add_merge(commands.add_parser("merge", help="make one model of a base model and an adapter"))
    commands.add_parser("demo", help="everything together on this machine (has its own --help)", add_help=False)
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output-dir", type=Path, default=dataset.DEFAULT_DIRECTORY, help="for both files (default: %(default)s)")
    add("--ohlcv", type=Path, metavar="FILE", help="bars as .csv or .parquet (default: a seeded market simulation)")
    add("--symbol", type=_name, help="name of the instrument in --ohlcv (default: the file's name)")
    add("--records", type=_number(int, 1, 1_000_000), default=dataset.DEFAULT_TRAIN_RECORDS,
        help="training records from the simulation (default: %(default)s)")  # fmt: skip
    add("--eval-records", type=_number(int, 1, 1_000_000), default=dataset.DEFAULT_EVAL_RECORDS,
        help="evaluation records from the simulation (default: %(default)s)")  # fmt: skip
    add("--eval-share", type=_number(float, 0.01, 0.5), default=0.1,
        help="share of --ohlcv, at its end, that is for evaluation (default: %(default)s)")  # fmt: skip
    add("--seed", type=_number(int, 0, 2**32 - 1), default=dataset.DEFAULT_SEED, help="(default: %(default)s)")
    parser.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    if options.ohlcv is None:
        parts = dataset.simulated_dataset(options.records, options.eval_records, options.seed)
    else:
        from trading_llm.ohlcv import read_ohlcv

        symbol = options.symbol or options.ohlcv.stem.upper()
        parts = dataset.dataset_from_bars(symbol, read_ohlcv(options.ohlcv), options.seed, options.eval_share)
    for path, records in zip(dataset.write_dataset(options.output_dir, *parts), parts, strict=True):
        print(f"{path}: {len(records)} records")
    return 0


def _add_train(parser: argparse.ArgumentParser) -> None:
    """One option per field of `TrainSettings`; the defaults are there."""
    default = TrainSettings()

    def add(field: str, kind: Callable[[str], Any], help: str, shown: str | None = None, **more: Any) -> None:
        value = getattr(default, field)
        shown = f" (default: {shown or value})" if shown or value is not None else ""
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, default=value, help=help + shown, **more)

    def switch(field: str, help: str, shown: str | None = None) -> None:
        value = getattr(default, field)
        parser.add_argument(
            f"--{field.replace('_', '-')}", action=argparse.BooleanOptionalAction, default=value,
            help=f"{help} (default: {shown or ('yes' if value else 'no')})",
        )  # fmt: skip

    steps, rate = _number(int, 1), _number(float, 0, 1, above=True)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of these settings; options go first")
    parser.add_argument("--dry-run", action="store_true", help="print the plan of the run, and train nothing")
    add("base_model", _name, "a Hub name (downloaded), a local directory, or the tiny model of this package")
    add("train_data", Path, "records as .json, .jsonl or .parquet", f"{default.train_path}, generated if missing")
    add("eval_data", Path, "the same, for validation", "eval_data.json beside train_data.json, where there is one")
    add("eval_share", _number(float, 0, 0.5), "share of the training data that is for validation, where no other is")
    add("chat_template", Path, "Jinja template for prompts and answers", "the base model's own")
    add("output_dir", Path, "adapter, checkpoints, runs/ for TensorBoard, journal.jsonl")
    add("run_name", _name, "label of the run in the metrics", "output directory and time")
    add("num_epochs", _number(float, 0, 10_000, above=True), "passes over the training data")
    add("batch_size", steps, "records per device and micro-step")
    add("gradient_accumulation_steps", steps, "micro-steps per optimizer step")
    add("learning_rate", rate, "the peak", f"{USUAL_LEARNING_RATE:g}; {EMBEDDED_LEARNING_RATE:g} for {EMBEDDED}")
    add("lr_scheduler", _one_of(SCHEDULERS), ", ".join(SCHEDULERS))
    add("warmup_ratio", _number(float, 0, 1), "share of the steps in which the learning rate rises")
    add("max_grad_norm", _number(float, 0, above=True), "gradients are clipped to this norm")
    add("lora_r", _number(int, 1, 4096), "rank of the adapters")
    add("lora_alpha", _number(int, 1, 65536), "scale of the adapters: alpha / r")
    add("lora_dropout", _number(float, 0, 0.99), "dropout before the adapters")
    add("quantization", _one_of(QUANTIZATIONS), "of the base model, by bitsandbytes: " + ", ".join(QUANTIZATIONS))
    add("max_length", _number(int, 8, 1_000_000), "tokens per record; longer ones are cut")
    switch("padding_free", "batches without padding, where the model's attention can do it")
    add("precision", _one_of(PRECISIONS), "of computing: " + ", ".join(PRECISIONS), "16 bits on a GPU, fp32 on a CPU")
    add("attention", _one_of(ATTENTIONS), ", ".join(ATTENTIONS), "FlashAttention-2 where it is installed, else SDPA")
    switch("gradient_checkpointing", "less memory for a fifth more time", "on a GPU")
    add("optimizer", _one_of(OPTIMIZERS), ", ".join(OPTIMIZERS),
        "paged_adamw_8bit for a quantized base on a GPU, else adamw_torch_fused")  # fmt: skip
    switch("liger", "fused kernels of the package liger-kernel; needs a GPU")
    switch("compile", "torch.compile: minutes at the start, faster steps after")
    add("seed", _number(int, 0, 2**32 - 1), "of data order, adapters and dropout")
    add("logging_steps", steps, "optimizer steps between two printed blocks")
    add("eval_steps", steps, "optimizer steps between two evaluations", "a tenth of the run")
    add("quality_prompts", _number(int, 0, 1000), "validation prompts whose explanations are scored; 0: none")
    add("save_steps", steps, "optimizer steps between two checkpoints", "a tenth of the run")
    add("early_stopping", steps, "end after so many evaluations without a better validation loss", "never")
    add("resume", _name, "go on from a checkpoint, or (without a path) from the newest one in --output-dir",
        nargs="?", const=LAST, metavar="CHECKPOINT")  # fmt: skip
    switch("auto_batch", "out of memory: go on with half the batch size and twice the accumulation")
    add("stop_on", _one_of(STOPS), "end the run as failed at such a loss: " + ", ".join(STOPS))
    switch("wandb", "log to Weights & Biases too, where it is installed")
    add("threads", _number(int, 1, 1024), "CPU threads", "all cores")
    add("metrics_port", _number(int, 0, 65535), "port of /metrics; 0: any", "9401 or the next free one")
    add("metrics_host", _name, "address on which /metrics is served")
    add("metrics_web_config", Path, "TLS and passwords of /metrics, a file as Prometheus' exporters have it", "none")
    add("profile", Path, "YAML file of what this run is expected to look like", "the guide's numbers")
    add("inject", str, "make a real fault happen: SIGN[@STEP or @SHARE]; `--inject list` explains them")
    parser.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    fields = {name: value for name, value in vars(options).items() if name not in {"command", "config", "dry_run"}}
    if fields["inject"] == "list":
        from trading_llm import inject

        print(inject.listing())
        return 0
    settings = TrainSettings(**fields)
    if options.dry_run:
        from trading_llm.plan import dry_run

        print(dry_run(settings))
        return 0
    from trading_llm.training import train

    train(settings)
    return 0


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    default = TrainSettings().output_dir
    add = parser.add_argument
    add("--adapter", type=Path, default=default, help="an output directory or a checkpoint (default: %(default)s)")
    add("--base-model", type=_name, help="(default: the one that the adapter was trained on)")


def _add_infer(parser: argparse.ArgumentParser) -> None:
    _add_adapter(parser)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", type=_name, help="the text to go on from (default: standard input)")
    what.add_argument("--data", type=Path, metavar="FILE", help="the prompts of these records, as for --train-data")
    add("--limit", type=_number(int, 1), help="so many records of --data (default: all)")
    add("--max-new-tokens", type=_number(int, 1, 100_000), default=256, help="(default: %(default)s)")
    add("--temperature", type=_number(float, 0, 10), default=0.0, help="0: the likeliest token (default: %(default)s)")
    add("--quantization", type=_one_of(QUANTIZATIONS), default="none", help="of the base model (default: %(default)s)")
    add("--seed", type=_number(int, 0, 2**32 - 1), default=0, help="of what is drawn (default: %(default)s)")
    parser.set_defaults(command=_infer)


def _infer(options: argparse.Namespace) -> int:
    from trading_llm import adapters
    from trading_llm.model import quiet

    quiet()
    fields = {name: value for name, value in vars(options).items() if name != "command"}
    for number, (prompt, answer) in enumerate(adapters.infer(**fields)):
        if options.data is not None:
            print(f"{chr(10) if number else ''}{prompt}")
        print(answer, flush=True)
    return 0


def _add_merge(parser: argparse.ArgumentParser) -> None:
    _add_adapter(parser)
    parser.add_argument("--output-dir", type=Path, required=True, help="for the model, as safetensors")
    parser.set_defaults(command=_merge)


def _merge(options: argparse.Namespace) -> int:
    from trading_llm import adapters
    from trading_llm.model import quiet

    quiet()
    adapters.merge(options.adapter, options.output_dir, options.base_model)
    print(f"Model saved in {options.output_dir}")
    return 0
