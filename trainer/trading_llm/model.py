"""The base model, quantized if asked for, with LoRA adapters on it. Weights are read from safetensors only."""

import os
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available, logging

from trading_llm import lora
from trading_llm.errors import UsageError
from trading_llm.settings import EMBEDDED, TrainSettings

EMBEDDED_DIRECTORY = Path(__file__).parent / "base"


def compute_dtype(precision: str = "auto") -> torch.dtype:
    """What matrices are multiplied in: as `precision` says, by default 16 bits on a GPU and 32 on a CPU."""
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    if not torch.cuda.is_available():
        return torch.float32
    # GPUs before Ampere have bfloat16 in emulation only.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_base(
    name: str, quantization: str, precision: str = "auto", attention: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer; `name` is "embedded", a local directory or a Hub name (downloaded).

    Raises UsageError when there is no such model, it has no safetensors, or it cannot have that attention.
    """
    source = str(EMBEDDED_DIRECTORY) if name == EMBEDDED else name
    cuda, dtype = torch.cuda.is_available(), compute_dtype(precision)
    if attention == "auto":
        flash = cuda and name != EMBEDDED and dtype != torch.float32 and is_flash_attn_2_available()
        attention = "flash_attention_2" if flash else ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            # Said, because without it transformers asks on the terminal whether to run a model's own code.
            trust_remote_code=False,
            dtype=torch.float32 if name == EMBEDDED else dtype,
            quantization_config=_quantization_config(quantization, dtype),
            # bitsandbytes quantizes on the device that the model is to be on.
            device_map={"": int(os.environ.get("LOCAL_RANK", 0))} if cuda and quantization != "none" else None,
            attn_implementation=attention or None,
        )
    except (OSError, ValueError, ImportError) as error:
        raise unloadable(name, error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.use_cache = False  # a cache of keys and values is of use in generation only
    return model, tokenizer


def unloadable(name: str, error: Exception) -> UsageError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UsageError(
        f"--base-model: found {name!r}, which cannot be loaded ({reason}); "
        f"allowed: {EMBEDDED}, a directory with config.json, tokenizer and safetensors, or a name on the Hub"
    )


def add_lora(model: PreTrainedModel, settings: TrainSettings) -> PeftModel:
    """LoRA adapters in 32 bits on every linear layer but the output; all other weights are frozen as they are.

    PEFT's `prepare_model_for_kbit_training` would blow embeddings and norms up to 32 bits, gigabytes of a large
    vocabulary, although nothing is learnt there.
    """
    adapted = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
        ),
    )
    lora.speed_up(adapted)
    return adapted


def _quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return None


def quiet() -> None:
    """Loading a model is over in a moment or draws its own bar; what libraries plan to rename is nobody's news."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
