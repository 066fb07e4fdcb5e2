"""The base model, quantized if asked for, with LoRA adapters on it. Weights are read from safetensors only."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trading_llm.errors import UsageError
from trading_llm.settings import EMBEDDED, TrainSettings

EMBEDDED_DIRECTORY = Path(__file__).parent / "base"


def load_base(name: str, quantization: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer; `name` is "embedded", a local directory or a Hub name (downloaded).

    Raises UsageError when there is no such model or it has no safetensors.
    """
    source = str(EMBEDDED_DIRECTORY) if name == EMBEDDED else name
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda and name != EMBEDDED else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype=dtype,
            quantization_config=_quantization_config(quantization, dtype),
            device_map={"": 0} if cuda and quantization != "none" else None,
        )
    except (OSError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"--base-model: found {name!r}, which cannot be loaded ({reason}); "
            f"allowed: {EMBEDDED}, a directory with config.json, tokenizer and safetensors, or a name on the Hub"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.use_cache = False  # a cache of keys and values is of use in generation only
    return model, tokenizer


def add_lora(model: PreTrainedModel, settings: TrainSettings) -> PeftModel:
    """LoRA adapters on every linear layer but the output; all other weights are frozen."""
    if settings.quantization != "none":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=torch.cuda.is_available())
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
        ),
    )


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return None
