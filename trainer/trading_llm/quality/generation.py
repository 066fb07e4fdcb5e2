"""Texts from the model in training, without a trace in the training: weights, modes, and random numbers stay as they
were."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trading_llm.data import IGNORED

#: How texts are drawn: as large models usually are asked. A small one that always takes the likeliest token repeats
#: itself long after it has learnt to write. The seed makes the draws the same every time.
TEMPERATURE, TOP_P, SEED = 0.7, 0.9, 0
#: Prompts that are continued at once; new tokens beyond the longest of the references, and at most.
BATCH, SPARE_TOKENS, MOST_TOKENS = 8, 16, 400


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt, its text, and the completion that the data has for it."""

    ids: tuple[int, ...]
    text: str
    reference: str
    reference_tokens: int


def pick_prompts(
    items: Sequence[Mapping[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[Prompt]:
    """`count` prompts of a validation set, evenly spread and the same in every run on the same set.

    Items have `input_ids` and `labels` (IGNORED where nothing is to be written). Of a conversation it is the last
    answer; items without one are passed over.
    """
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    prompts = []
    for item in (items[place] for place in chosen):
        begin, end = _last_answer(item["labels"])
        if not 0 < begin < end:
            continue
        prompt, answer = list(item["input_ids"][:begin]), list(item["input_ids"][begin:end])
        texts = tokenizer.batch_decode([prompt, answer], skip_special_tokens=True)
        prompts.append(Prompt(tuple(prompt), *texts, len(answer)))
    return prompts


def _last_answer(labels: Sequence[int]) -> tuple[int, int]:
    """(begin, end) of the last run of labels that count."""
    end = len(labels)
    while end > 0 and labels[end - 1] == IGNORED:
        end -= 1
    begin = end
    while begin > 0 and labels[begin - 1] != IGNORED:
        begin -= 1
    return begin, end


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    temperature: float = TEMPERATURE,
) -> list[str]:
    """A continuation of each prompt, drawn with a fixed seed: the same weights give the same texts on one device.

    `temperature` 0 takes the most likely token each time.
    """
    draw: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
    if temperature > 0:
        draw = {"do_sample": True, "temperature": temperature, "top_p": TOP_P}
    longest = max(prompt.reference_tokens for prompt in prompts)
    told = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])} - {None}
    texts: list[str] = []
    with undisturbed(model), torch.no_grad():
        torch.manual_seed(SEED)
        for begin in range(0, len(prompts), BATCH):
            part = prompts[begin : begin + BATCH]
            width = max(len(prompt.ids) for prompt in part)
            # Padding goes to the left, so that the texts begin where the prompts end.
            ids = torch.full((len(part), width), tokenizer.pad_token_id, device=model.device)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(part):
                ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
                mask[row, width - len(prompt.ids) :] = 1
            written = model.generate(
                input_ids=ids, attention_mask=mask, num_beams=1, use_cache=True, top_k=None, **draw,
                max_new_tokens=min(MOST_TOKENS, longest + longest // 4 + SPARE_TOKENS),
                pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends) or None,
            )  # fmt: skip
            texts += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return texts


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; outside every module is in its mode, and random numbers go on, as if nothing was."""
    training = [(module, module.training) for module in model.modules()]
    cache = getattr(model.config, "use_cache", None) if hasattr(model, "config") else None
    numbers: tuple[Any, Any] = (random.getstate(), np.random.get_state())
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        try:
            model.eval()
            yield
        finally:
            for module, mode in training:
                module.training = mode
            if cache is not None:
                model.config.use_cache = cache  # type: ignore[union-attr]
            random.setstate(numbers[0])
            np.random.set_state(numbers[1])
