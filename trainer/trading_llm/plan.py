"""`--dry-run`: what a run would do, how much memory it needs, and what it is expected to look like; nothing is trained.

Of the base model only the configuration is read, and its weights are counted without memory for them.
"""

import math
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from trading_llm.arguments import Steps, gradient_checkpointing, optimizer, steps_of
from trading_llm.data import Completions
from trading_llm.loss import LARGE_VOCABULARY
from trading_llm.model import EMBEDDED_DIRECTORY, compute_dtype, quiet, unloadable
from trading_llm.preflight import check_options, read_profile
from trading_llm.settings import EMBEDDED, TrainSettings
from trading_llm.sources import read_sources
from trading_llm.texts import use_chat_template
from training_exporter import Profile

BITS_PER_WEIGHT = {"8bit": 8.5, "4bit": 4.127}
"""In linear layers: with the outliers' copies of LLM.int8(), and with NF4's doubly quantized constants (QLoRA)."""


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on the device."""

    weights: int
    adapters: int  # with gradients and optimizer state
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.activations


def dry_run(settings: TrainSettings) -> str:
    """The plan in words. Raises UsageError for whatever would end the run before its first step."""
    quiet()
    check_options(settings)
    profile = read_profile(settings)
    source = str(EMBEDDED_DIRECTORY) if settings.base_model == EMBEDDED else settings.base_model
    sources = read_sources(settings)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise unloadable(settings.base_model, error) from None
    use_chat_template(tokenizer, settings.chat_template)
    data, evaluation = (
        Completions(part.examples, tokenizer, settings.max_length, part.name) if part.examples else None
        for part in sources
    )
    steps = steps_of(settings, len(data))
    memory, trainable = estimate(config, settings, data.statistics.percentile_95)
    tokens = settings.num_epochs * data.statistics.tokens
    checkpointing = "with" if gradient_checkpointing(settings) else "without"
    lines = [
        f"Training data: {sources[0].name}: {data.statistics}",
        f"Validation data: {sources[1].name}: {evaluation.statistics}" if evaluation else "Validation data: none",
        f"Steps: {steps.total} ({steps.per_epoch} in an epoch, {steps.warmup} of warm-up), each of "
        f"{settings.batch_size} x {settings.gradient_accumulation_steps} records",
        f"Tokens: {tokens:.0f}, about {tokens / steps.total:.0f} in a step",
        f"Evaluation every {steps.evaluation} steps, checkpoint every {steps.checkpoint}" if evaluation
        else f"Checkpoint every {steps.checkpoint} steps",
        f"Learning rate: {settings.peak_learning_rate:g} at its peak, {settings.lr_scheduler}; "
        f"optimizer {optimizer(settings)}",
        f"LoRA r={settings.lora_r}: {trainable} trainable parameters",
        f"Memory, estimated: {_gib(memory.total)} ({_gib(memory.weights)} weights, {_gib(memory.adapters)} adapters "
        f"with optimizer, {_gib(memory.activations)} activations {checkpointing} gradient checkpointing)",
        *_expected(settings, steps, profile),
        "Nothing was trained (--dry-run).",
    ]  # fmt: skip
    return "\n".join(lines)


def estimate(config: PreTrainedConfig, settings: TrainSettings, tokens: int) -> tuple[Memory, int]:
    """Memory of a run with records of `tokens` tokens, and the number of trainable parameters.

    Activations are counted per layer as the inputs of its matrix products and nonlinearities, which autograd keeps;
    with gradient checkpointing as one input per layer and the whole of a single one. The logits are of half the tokens.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        weights = model.num_parameters()
        linear = sum(
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name
        )
        adapted = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=settings.lora_r, target_modules="all-linear")
        )
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    width = 4 if settings.base_model == EMBEDDED else compute_dtype(settings.precision).itemsize
    bits = BITS_PER_WEIGHT.get(settings.quantization, 8 * width)
    in_step = settings.batch_size * tokens
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # Norms, queries, keys, values (each before and after the rotation, and laid out), attention's output; gate, up and
    # their product; LoRA's dropped inputs beside each.
    layer = in_step * width * (24 * config.hidden_size + 7 * inner)
    layers = config.num_hidden_layers
    if gradient_checkpointing(settings):
        activations = layers * in_step * width * config.hidden_size + layer
    else:
        activations = layers * layer
    # The fused loss takes pieces of the logits, each about twice as large as the hidden states.
    fused = config.vocab_size >= LARGE_VOCABULARY and settings.padding_free and not settings.liger
    logits = in_step // 2 * (4 * config.hidden_size if fused else config.vocab_size) * (width + 3 * 4)
    moments = 2 if "8bit" in optimizer(settings) else 8
    memory = Memory(
        weights=math.ceil(linear * bits / 8 + (weights - linear) * width),
        adapters=trainable * (4 + 4 + moments),
        activations=activations + logits,
    )
    return memory, trainable


def _expected(settings: TrainSettings, steps: Steps, profile: Profile) -> list[str]:
    """The profile's bands at the start, after each epoch, and at the end."""
    lines = []
    for epoch in sorted({0.0, *map(float, range(1, math.ceil(settings.num_epochs))), settings.num_epochs}):
        loss, validation, perplexity = (
            f"{band.lower:.2f} to {band.upper:.2f}"
            for band in (curve.at(epoch) for curve in (profile.loss, profile.validation_loss, profile.perplexity))
        )
        lines.append(
            f"Expected after {epoch:g} epochs (step {min(steps.total, round(epoch * steps.per_epoch))}): "
            f"training loss {loss}, validation loss {validation}, perplexity {perplexity}"
        )
    return lines


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
