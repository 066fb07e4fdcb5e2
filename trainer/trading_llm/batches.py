"""From tokenized examples to batches: without padding where the model's attention can do it, else padded."""

from array import array
from collections.abc import Callable, Sequence

import torch

from trading_llm.data import IGNORED, Item

Batch = dict[str, torch.Tensor]


class Collator:
    """Batch of (batch, longest) int64 tensors: input_ids, attention_mask (1 = token), labels; padded on the right.

    `change`, where set, sees every batch before it is handed out (see `inject.py`).
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.change: Callable[[Batch], Batch] | None = None

    def __call__(self, items: Sequence[Item]) -> Batch:
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        longest = int(lengths.max())

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor(
                [(item[key] + array("i", [fill]) * (longest - len(item[key]))).tolist() for item in items]
            )

        batch = {
            "input_ids": padded("input_ids", self.pad_token_id),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
            "labels": padded("labels", IGNORED),
        }
        return self.change(batch) if self.change else batch
