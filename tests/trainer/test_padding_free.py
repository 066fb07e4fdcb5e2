"""Batches without padding give what padded ones give: the same logits, loss and gradients, on several architectures."""

from array import array
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from trading_llm import lora
from trading_llm.attention import PADDING_FREE, lay_out, use_padding_free
from trading_llm.batches import PaddedCollator, RowCollator
from trading_llm.data import IGNORED, Item
from trading_llm.loss import fuse_loss

SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = [
    LlamaConfig(**SMALL),
    MistralConfig(**SMALL, sliding_window=4),
    Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4, max_window_layers=1),
]


def items(*lengths: int) -> list[Item]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for length in lengths:
        ids = array("i", torch.randint(3, 50, (length,), generator=draw).tolist())
        prompt = max(1, length // 3)
        made.append({"input_ids": ids, "labels": array("i", [IGNORED] * prompt) + ids[prompt:]})
    return made


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def test_layout_of_three_records() -> None:
    cells, places = lay_out([2, 3, 1])
    assert cells.tolist() == [[[[0, 1, 6], [2, 3, 4], [5, 6, 6]]]]
    assert places.tolist() == [0, 1, 3, 4, 5, 6]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_logits_loss_and_gradients_are_those_of_a_padded_batch(config: PreTrainedConfig) -> None:
    data = items(7, 3, 12, 1, 9)
    data[3]["labels"] = array("i", [IGNORED])
    model = model_of(config)
    padded = model(**PaddedCollator(0)(data))
    padded.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    assert use_padding_free(model)
    assert model.config._attn_implementation == PADDING_FREE
    batch = RowCollator(PADDING_FREE)(data)
    row = model(**batch)
    row.loss.backward()
    assert row.loss.item() == pytest.approx(padded.loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)

    del batch["logits_to_keep"], batch["shift_labels"]
    with torch.no_grad():
        logits = model(**batch).logits[0].split([len(item["input_ids"]) for item in data])
    for number, part in enumerate(logits):
        torch.testing.assert_close(part, padded.logits[number, : len(part)], rtol=1e-4, atol=1e-5)


def test_no_record_sees_another() -> None:
    model = model_of(CONFIGS[0])
    assert use_padding_free(model)
    data = items(8, 8, 8)
    collate = RowCollator(PADDING_FREE)

    def last_logits() -> torch.Tensor:
        batch = collate(data)
        del batch["logits_to_keep"], batch["shift_labels"]
        with torch.no_grad():
            return model(**batch).logits[0, -8:]

    before = last_logits()
    data[0]["input_ids"] = data[0]["input_ids"][::-1]
    assert torch.equal(last_logits(), before)
    data[2]["input_ids"][0] += 1
    assert not torch.allclose(last_logits(), before)


def test_generation_with_padded_prompts_goes_on_as_before() -> None:
    model = model_of(CONFIGS[0])
    inputs = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
    }
    plain = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert use_padding_free(model)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), plain)


def test_layers_that_are_no_attention_are_left_alone() -> None:
    mamba = FalconMambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = AutoModelForCausalLM.from_config(mamba)
    assert not use_padding_free(model)
    assert use_padding_free(model_of(CONFIGS[0]))


def test_soft_capped_attention_is_left_alone() -> None:
    """SDPA cannot do it."""
    config = Gemma2Config(**SMALL)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    before = model.config._attn_implementation
    assert not use_padding_free(model)
    assert model.config._attn_implementation == before


def test_faster_lora_is_pefts_lora() -> None:
    base = model_of(CONFIGS[0])
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    batch = PaddedCollator(0)(items(7, 12))

    def outcome() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        out = model(**batch)
        out.loss.backward()
        return out.logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    logits, gradients = outcome()
    with model.disable_adapter(), torch.no_grad():
        without = model(**batch).logits
    lora.speed_up(model)
    faster, faster_gradients = outcome()
    torch.testing.assert_close(faster, logits)
    assert faster_gradients.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(faster_gradients[name], gradients[name], rtol=1e-4, atol=1e-6)
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, without)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_loss_without_logits_is_the_loss(config: PreTrainedConfig) -> None:
    model = get_peft_model(model_of(config), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    base = model.get_base_model()
    assert use_padding_free(base)
    batch = {**RowCollator(PADDING_FREE)(items(7, 3, 12)), "num_items_in_batch": torch.tensor(17)}

    def outcome() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    loss, gradients = outcome()
    assert not fuse_loss(base)
    assert fuse_loss(base, vocabulary=50)
    fused, fused_gradients = outcome()
    torch.testing.assert_close(fused, loss)
    for name in gradients:
        torch.testing.assert_close(fused_gradients[name], gradients[name], rtol=1e-4, atol=1e-6)
    ids = torch.tensor([[5, 6, 7]])
    assert model(input_ids=ids).logits.shape == (1, 3, 50)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.full((1001, 333), 2.0, requires_grad=True)
    y, scale = lora._dropped(torch.nn.Dropout(p), x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert y.mean().item() * scale == pytest.approx(2.0, rel=0.01)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 2)
    assert lora._dropped(torch.nn.Dropout(p).eval(), x) == (x, 1.0)


def test_faster_lora_drops_what_pefts_lora_drops_on_average() -> None:
    base = model_of(CONFIGS[0])
    torch.manual_seed(3)
    model = get_peft_model(
        base, LoraConfig(r=4, lora_dropout=0.3, target_modules=["down_proj"], init_lora_weights=False)
    )
    layer: Any = model.get_base_model().model.layers[0].mlp.down_proj
    x = torch.randn(20, 48)
    layer.eval()
    expected = layer(x)
    lora.speed_up(model)
    layer.train()
    mean = torch.stack([layer(x).detach() for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0.05, atol=0.05)
