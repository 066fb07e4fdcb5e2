"""The embedded base model: small, and able to quote a figure that stands in its prompt."""

from __future__ import annotations

import re

import numpy as np
import torch

from trading_llm.base.corpus import RELATIONS, comparison, documents, recital
from trading_llm.base.pretrain import drill, make_model
from trading_llm.model import EMBEDDED_DIRECTORY, load_base


def test_it_is_small_and_complete() -> None:
    files = list(EMBEDDED_DIRECTORY.iterdir())
    assert sum(file.stat().st_size for file in files if file.is_file()) < 4 * 2**20
    _, tokenizer = load_base("embedded", "none")
    vocabulary = tokenizer.get_vocab()
    assert all(f"{pair:02d}" in vocabulary and f".{pair:02d}" in vocabulary for pair in range(100)), "pairs of digits"
    assert tokenizer.tokenize("macd_histogram: -12.07\n") == ["macd", "_", "histogram", ":Ġ", "-", "12", ".07", "Ċ"]
    text = "rsi_14: 71.3, µ €\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_only_the_list_tells_the_figures_of_a_recital() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        listed, recited = recital(rng)
        values = dict(re.findall(r"([A-Za-z]\w*)(?:: | = | )(-?[\d.]+)(?=\n|; |, )", listed))
        said = re.findall(r"(?: at | of | is | \(|: | was | )(-?\d+(?:\.\d+)?)(?=[,;.) ]|$)", recited)
        assert values
        assert set(values.values()) <= {figure.rstrip(".") for figure in said}, (listed, recited)
    assert list(documents(20, 1)) == list(documents(20, 1)) != list(documents(20, 2))


def test_what_is_said_of_compared_figures_is_true() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        _, said = comparison(rng)
        for value, word in re.findall(r"(?: of | at )(-?[\d.]+?) is (above zero|below zero|high|low)\b", said):
            seen.add(word)
            assert {"above zero": float(value) > 0, "below zero": float(value) < 0, "high": float(value) >= 0.7,
                    "low": float(value) < 30}[word], said  # fmt: skip
        for value, side, limit in re.findall(r" at ([\d.]+) is (above|below) (\d\d)\b", said):
            seen.add(side)
            assert (float(value) >= float(limit)) == (side == "above"), said
        for side, value in re.findall(r"(positive|negative) (?:at|[\w -]+ of) (-?[\d.]+)", said):
            seen.add(side)
            assert (float(value.rstrip(".")) > 0) == (side == "positive"), said
    assert seen >= {*RELATIONS} - {"middle"}


def test_it_recites_what_it_has_not_seen() -> None:
    model, tokenizer = load_base("embedded", "none")
    ids, labels = drill(tokenizer, 24, np.random.default_rng(12345))

    def right(of: torch.nn.Module) -> float:
        """Share of the figures' tokens that the model thinks the likeliest."""
        with torch.no_grad():
            likeliest = of(input_ids=ids).logits[:, :-1].argmax(-1)
        counted = labels[:, 1:] != -100
        return float((likeliest == labels[:, 1:])[counted].float().mean())

    assert right(model) > 0.7
    assert right(make_model(tokenizer, seed=1)) < 0.1, "before pretraining"


def test_the_heads_that_are_set_in_place_look_where_they_should() -> None:
    _, tokenizer = load_base("embedded", "none")
    model = make_model(tokenizer, seed=1)
    model.set_attn_implementation("eager")
    torch.manual_seed(0)
    rows, length = 64, 12
    ids = torch.stack([torch.randperm(len(tokenizer))[:length] for _ in range(rows)])
    again = torch.randint(1, length - 2, (rows,))
    ids[:, -1] = ids[torch.arange(rows), again]  # a token comes again
    with torch.no_grad():
        first, second = model(input_ids=ids, output_attentions=True).attentions[:2]
    for head, back in ((0, 1), (1, 2)):
        assert torch.diagonal(first[:, head], -back, dim1=1, dim2=2)[:, 3:].mean() > 0.5, f"{back} tokens back"
    behind = second[torch.arange(rows), 0, -1, again + 1]
    assert behind.mean() > 2 / length, "at what followed the token when it came before"
