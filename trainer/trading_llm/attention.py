"""Attention for batches without padding: the records of a batch stand one after another in one row.

Linear layers, norms and the loss then work on tokens only. On a CPU the attention takes record after record. On a GPU,
where many small kernels would be slow, the records are laid out below each other, as in a padded batch; being padded
on the right, they need no mask but the causal one, which SDPA's fast kernels have built in. No record sees another, and
the result is the one of a padded batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PADDING_FREE = "padding_free_sdpa"
"""Name under which transformers knows this attention."""

FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
"""These take batches without padding by themselves."""

_LAYERS = {"full_attention", "sliding_attention"}


def lay_out(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where tokens go and come from, for records of `lengths` tokens.

    Returns `cells` (1, 1, records, longest): for each cell of the padded layout its token in the row, or the number of
    tokens where it is padding; and `places` (tokens,): for each token its cell, counted row by row. Both int64.
    """
    count, width = torch.tensor(lengths), torch.arange(max(lengths))
    begin = count.cumsum(0) - count
    is_token = width < count[:, None]
    cells = torch.where(is_token, begin[:, None] + width, count.sum())
    return cells[None, None], is_token.flatten().nonzero()[:, 0]


def use_padding_free(model: PreTrainedModel) -> bool:
    """Switch the model to this attention; False, and nothing changed, where its layers are not of a kind it knows."""
    if model.config._attn_implementation in FLASH:
        return True
    layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if not model._supports_sdpa or not model._supports_attention_backend or not layers <= _LAYERS:
        return False
    model.set_attn_implementation(PADDING_FREE)
    return True


def padding_free_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    places: torch.Tensor | None = None,
    lengths: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' SDPA; with `places`, `attention_mask` holds the `cells` of `lay_out` and the batch is one row.
    With `lengths`, the tokens of each record, the records are taken one by one.

    query, key, value: (1, heads, tokens, head size); returns (1, tokens, heads, head size).
    """
    if places is None or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kwargs["is_causal"] = True
    if lengths is not None:
        parts = zip(*(row.split(lengths, dim=2) for row in (query, key, value)), strict=True)
        outs = [
            sdpa_attention_forward(module, *part, _window(part[0].shape[2], sliding_window, query.device), **kwargs)[0]
            for part in parts
        ]
        return torch.cat(outs, dim=1), None
    records, width = attention_mask.shape[2:]
    cells = attention_mask.flatten()

    def laid_out(row: torch.Tensor) -> torch.Tensor:
        flat = row[0].transpose(0, 1).flatten(1)
        return _Spread.apply(flat, cells, places).view(records, width, *row.shape[1::2]).transpose(1, 2)

    window = _window(width, sliding_window, query.device)
    out, _ = sdpa_attention_forward(module, laid_out(query), laid_out(key), laid_out(value), window, **kwargs)
    return _Gather.apply(out.flatten(0, 1).flatten(1), cells, places).view(1, -1, *out.shape[2:]), None


def _window(width: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """(1, 1, width, width) of booleans, where a token sees only so many before it; None where it sees all."""
    if sliding_window is None or width <= sliding_window:
        return None
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return ((distance >= 0) & (distance < sliding_window))[None, None]


class _Spread(torch.autograd.Function):
    """From tokens to cells. Padding gets the last token's values: nothing ever reads what becomes of them."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        return tokens.index_select(0, cells.clamp(max=len(tokens) - 1))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(0, places), None, None


class _Gather(torch.autograd.Function):
    """From cells to tokens; in the backward pass padding gets zero."""

    @staticmethod
    def forward(ctx: Any, laid_out: torch.Tensor, cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cells)
        return laid_out.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (cells,) = ctx.saved_tensors
        (gradient,) = gradients
        return torch.cat([gradient, gradient.new_zeros(1, gradient.shape[1])]).index_select(0, cells), None, None


AttentionInterface.register(PADDING_FREE, padding_free_sdpa)
AttentionMaskInterface.register(PADDING_FREE, sdpa_mask)
