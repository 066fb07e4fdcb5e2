"""From records to batches: tokens, labels on the completion only, dynamic padding."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from trading_llm.dataset import Record, prompt_and_completion
from trading_llm.errors import UsageError

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]

IGNORED = -100  # label that the loss leaves out, by PyTorch's convention


class Completions(Dataset[dict[str, list[int]]]):
    """Tokenized records: `input_ids` = [bos] prompt completion eos, `labels` the same with the prompt ignored.

    Sequences longer than `max_length` tokens lose their end; a record of which no completion token is left is
    dropped. Raises UsageError, naming `source`, when that leaves nothing.
    """

    def __init__(
        self, records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, source: Path | str
    ) -> None:
        texts = [prompt_and_completion(record) for record in records]
        prompts = tokenizer([prompt for prompt, _ in texts], add_special_tokens=False)["input_ids"]
        completions = tokenizer([completion for _, completion in texts], add_special_tokens=False)["input_ids"]
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.items: list[dict[str, list[int]]] = []
        cut = 0
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = begin + prompt + completion + end
            labels = [IGNORED] * (len(begin) + len(prompt)) + completion + end
            cut += len(ids) > max_length
            if len(begin) + len(prompt) < max_length:
                self.items.append({"input_ids": ids[:max_length], "labels": labels[:max_length]})
        if not self.items:
            longest = max(len(prompt) for prompt in prompts)
            raise UsageError(
                f"{source}: no record fits --max-length: found {max_length}, but prompts have up to {longest} tokens; "
                f"allowed: more than {longest + len(begin)}"
            )
        if cut:
            log.warning(
                "%s: %d of %d records have more than %d tokens and are cut", source, cut, len(texts), max_length
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.items[index]


class Collator:
    """Batch of (batch, longest) int64 tensors: input_ids, attention_mask (1 = token), labels; padded on the right.

    `change`, where set, sees every batch before it is handed out (see `inject.py`).
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.change: Callable[[Batch], Batch] | None = None

    def __call__(self, items: Sequence[dict[str, list[int]]]) -> Batch:
        longest = max(len(item["input_ids"]) for item in items)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([item[key] + [fill] * (longest - len(item[key])) for item in items])

        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        batch = {
            "input_ids": padded("input_ids", self.pad_token_id),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
            "labels": padded("labels", IGNORED),
        }
        return self.change(batch) if self.change else batch
