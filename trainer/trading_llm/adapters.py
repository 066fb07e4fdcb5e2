"""What to do with a trained adapter: `trading-llm merge` and `trading-llm infer`. Weights are read from safetensors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trading_llm.checkpoints import saved_settings
from trading_llm.errors import UsageError
from trading_llm.examples import Example, Pair, read_examples
from trading_llm.model import load_base
from trading_llm.preflight import make_directory
from trading_llm.texts import TextForm, use_chat_template
from trading_llm.untrusted import check_adapter_config

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def load_adapter(
    directory: Path, base_model: str | None, quantization: str = "none"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The base model with the adapter of an output directory or a checkpoint on it, and its tokenizer.

    `base_model` None is the one that the adapter was trained on. Raises UsageError for a directory without an adapter.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        if not (directory / WEIGHTS_FILE).exists():
            raise FileNotFoundError(2, f"no {WEIGHTS_FILE}", str(directory))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_FILE} is no mapping")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--adapter: found {directory} ({error}); allowed: a directory with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from None
    check_adapter_config(directory / CONFIG_FILE, config)
    # The adapter's own file has the path of the embedded model on the machine that it was trained on.
    trained_on = (saved_settings(directory) or saved_settings(directory.parent)).get("base_model")
    name = base_model or trained_on or str(config.get("base_model_name_or_path"))
    base, tokenizer = load_base(name, quantization)
    template = directory / "chat_template.jinja"
    if template.exists():  # what the adapter was trained with may be another one than the base model's
        use_chat_template(tokenizer, template)
    try:
        model = PeftModel.from_pretrained(base, str(directory))
    except (RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise UsageError(
            f"--adapter: found {directory}, which does not fit {name} ({first_line}); allowed: the adapter's own base"
        ) from None
    return model.eval(), tokenizer


def merge(adapter: Path, output_dir: Path, base_model: str | None) -> None:
    """Write the base model with the adapter in its weights, as safetensors with the tokenizer. Raises UsageError."""
    make_directory(output_dir)
    model, tokenizer = load_adapter(adapter, base_model)
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    merged.config.use_cache = True
    merged.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


def infer(
    adapter: Path,
    base_model: str | None,
    prompt: str | None,
    data: Path | None,
    limit: int | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    quantization: str,
) -> Iterator[tuple[str, str]]:
    """(prompt, what the model writes) for the prompt, for the first `limit` records of `data`, or for standard input.

    Temperature 0 always takes the likeliest token. Raises UsageError.
    """
    examples: list[Example]
    if data is not None:
        examples = read_examples(data)[:limit]
    else:
        examples = [Pair(sys.stdin.read() if prompt is None else prompt, "?")]
    model, tokenizer = load_adapter(adapter, base_model, quantization)
    form = TextForm(tokenizer)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    for example in examples:
        text = form.prompt(example)
        ids = torch.tensor(form.token_ids([text]), device=model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, use_cache=True,
                pad_token_id=tokenizer.pad_token_id, **sampling,
            )  # fmt: skip
        yield text, tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
