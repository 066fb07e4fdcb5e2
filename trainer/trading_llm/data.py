"""From examples to tokens: labels on completions only, statistics, and a validation split."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from trading_llm.dataset import Record
from trading_llm.errors import UsageError
from trading_llm.examples import Example
from trading_llm.texts import TextForm

IGNORED = -100  # label that the loss leaves out, by PyTorch's convention
FEWEST_TO_SPLIT = 20
MOST_FOR_VALIDATION = 500

Item = dict[str, "array[int]"]  # input_ids and labels, both of the length of the example in tokens


@dataclass(frozen=True)
class TokenStatistics:
    """What tokenizing gave. Lengths are of whole examples, before any was cut to `max_length`."""

    examples: int
    tokens: int  # that are trained on, after cutting
    completion_tokens: int  # of these, the ones that the loss covers
    median: int
    percentile_95: int
    longest: int
    max_length: int
    cut: int
    left_out: int  # no completion token fits

    @property
    def longest_kept(self) -> int:
        """Tokens of the longest record that is trained on."""
        return min(self.longest, self.max_length)

    @property
    def truncated_share(self) -> float:
        """Share of the examples that lost text, all of it or some."""
        return (self.cut + self.left_out) / self.examples

    def __str__(self) -> str:
        text = (
            f"{self.examples} records, {self.tokens} tokens, {self.completion_tokens} of them in completions; "
            f"per record {self.median} (median), {self.percentile_95} (95th percentile), {self.longest} (longest)"
        )
        if self.cut or self.left_out:
            text += f"; {self.truncated_share:.1%} truncated at --max-length {self.max_length}"
        return text + (f", {self.left_out} records left out: no completion fits" if self.left_out else "")


class Completions(Dataset[Item]):
    """Tokenized examples: `items` with `input_ids` and `labels`, the same with everything but completions ignored.

    Sequences longer than `max_length` tokens lose their end; an example of which no completion token is left is
    left out. Raises UsageError, naming `source` and the record, when an example cannot be made text or none is left.
    """

    def __init__(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, source: Path | str
    ) -> None:
        form = TextForm(tokenizer)
        pieces = []
        for number, example in enumerate(examples, 1):
            try:
                pieces.append(form.segments(example))
            except UsageError as error:
                raise UsageError(f"{source}: record {number}: {error}") from None
        ids = iter(form.token_ids([text for segments in pieces for text, _ in segments]))
        self.items: list[Item] = []
        lengths, cut, shortest = [], 0, 0
        for segments in pieces:
            tokens, labels = array("i"), array("i")
            for _, learnt in segments:
                part = array("i", next(ids))
                tokens += part
                labels += part if learnt else array("i", [IGNORED]) * len(part)
            lengths.append(len(tokens))
            if any(label != IGNORED for label in labels[:max_length]):
                cut += len(tokens) > max_length
                self.items.append({"input_ids": tokens[:max_length], "labels": labels[:max_length]})
            else:
                needed = next(place for place, label in enumerate(labels, 1) if label != IGNORED)
                shortest = min(shortest or needed, needed)
        if not self.items:
            raise UsageError(
                f"{source}: no record fits --max-length: found {max_length}, but the shortest prompt has "
                f"{shortest - 1} tokens; allowed: {shortest} or more"
            )
        self.statistics = TokenStatistics(
            examples=len(lengths),
            tokens=sum(len(item["input_ids"]) for item in self.items),
            completion_tokens=sum(label != IGNORED for item in self.items for label in item["labels"]),
            median=int(np.median(lengths)),
            percentile_95=int(np.percentile(lengths, 95)),
            longest=max(lengths),
            max_length=max_length,
            cut=cut,
            left_out=len(lengths) - len(self.items),
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training, validation) examples; `share` of them, at most MOST_FOR_VALIDATION, are for validation.

    The generator's records are split by time, so that the validation is out of sample; others by chance. Of fewer
    than FEWEST_TO_SPLIT examples all are for training.
    """
    count = min(round(share * len(examples)), MOST_FOR_VALIDATION)
    if count == 0 or len(examples) < FEWEST_TO_SPLIT:
        return list(examples), []
    records = [example for example in examples if isinstance(example, Record)]
    if len(records) == len(examples):
        latest = sorted(range(len(examples)), key=lambda place: records[place].timestamp)[-count:]
    else:
        latest = random.Random(seed).sample(range(len(examples)), count)
    held = set(latest)
    return (
        [example for place, example in enumerate(examples) if place not in held],
        [example for place, example in enumerate(examples) if place in held],
    )
