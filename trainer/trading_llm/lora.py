"""A faster forward pass for PEFT's LoRA layers, with the same result: one `addmm` instead of scaling and adding.

It saves two passes over every layer's output in the forward pass, one in the backward pass, and the memory of what
they would keep. Whatever is not plain LoRA (several adapters, DoRA, merged weights, ...) takes PEFT's own way.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn


def speed_up(model: PeftModel) -> None:
    """Give all LoRA layers on linear layers, quantized or not, the faster forward pass."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and hasattr(module.base_layer, "in_features"):
            module.forward = _forward(module, module.forward)


def _forward(layer: Any, peft_forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(peft_forward)
    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        [name, *others] = layer.active_adapters or [None]
        plain = not (args or kwargs or others or layer.disable_adapters or layer.merged or layer.lora_variant)
        if not plain or name not in layer.lora_A or layer.lora_bias[name]:
            return peft_forward(x, *args, **kwargs)
        base = layer.base_layer(x)
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        if not torch.is_autocast_enabled(x.device.type):
            if base.dtype != up.dtype:
                return peft_forward(x)
            x = x.to(down.dtype)
        x, scale = _dropped(layer.lora_dropout[name], x)
        inner = F.linear(x, down)
        out = torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=scale * layer.scaling[name])
        return out.view(base.shape)

    return forward


def _dropped(dropout: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What dropout leaves of `x`, and the factor that is still missing from it."""
    if not isinstance(dropout, nn.Dropout) or not dropout.training or dropout.p == 0 or x.device.type != "cpu":
        return dropout(x), 1.0
    return _Drop.apply(x, dropout.p), 1 / (1 - dropout.p)


class _Drop(torch.autograd.Function):
    """Dropout without its scaling, for the CPU.

    PyTorch's draws one number per element from a slow generator; here each gives four, so that the probability is a
    multiple of 2**-16. `where` is several times as fast as multiplying by a mask of booleans.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= round(p * 2**16) - 2**15
        ctx.save_for_backward(kept)
        return torch.where(kept, x, x.new_zeros(()))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradients[0], gradients[0].new_zeros(())), None
