"""From tokenized examples to batches: without padding where the model's attention can do it, else padded."""

from array import array
from collections.abc import Callable, Sequence

import torch

from trading_llm.attention import FLASH, lay_out
from trading_llm.data import IGNORED, Item

Batch = dict[str, torch.Tensor]


class RowCollator:
    """Batch of one row that holds its records one after another, for models with `attention.use_padding_free`.

    All tensors are int64 unless said otherwise: `input_ids`, `position_ids` (from 0 in each record) and `labels` are
    (1, tokens). Logits are only computed for the (1, targets) `shift_labels`, at the places in the row that
    `logits_to_keep` (targets,) names. For SDPA `attention_mask` and `places` are those of `lay_out`; FlashAttention
    takes the records' bounds `cu_seq_lens_q` and `_k` (records + 1, int32) and the longest record's length instead.
    `one_by_one`, for the CPU, adds the records' `lengths`, a tuple of integers.
    `change`, where set, sees ids and labels of every batch before it is handed out (see `inject.py`).
    """

    def __init__(self, attention: str, one_by_one: bool = False) -> None:
        self._flash, self._one_by_one = attention in FLASH, one_by_one
        self.change: Callable[[Batch], Batch] | None = None

    def __call__(self, items: Sequence[Item]) -> Batch:
        lengths = [len(item["input_ids"]) for item in items]
        batch = {
            key: torch.cat([torch.tensor(item[key], dtype=torch.int64) for item in items])[None]
            for key in ("input_ids", "labels")
        }
        batch = self.change(batch) if self.change else batch
        targets = batch["labels"][0].roll(-1)
        targets[torch.tensor(lengths).cumsum(0) - 1] = IGNORED  # the first token of the next record
        kept = (targets != IGNORED).nonzero()[:, 0]
        batch |= {
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "logits_to_keep": kept,
            "shift_labels": targets[kept][None],
        }
        if self._flash:
            bounds = torch.tensor([0, *lengths]).cumsum(0).int()
            batch |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}  # type: ignore[dict-item]
        else:
            batch["attention_mask"], batch["places"] = lay_out(lengths)
            if self._one_by_one:
                batch["lengths"] = tuple(lengths)  # type: ignore[assignment]
        return batch


class PaddedCollator:
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
