"""The loss without the logits: with a large vocabulary they would be the largest tensors of a training.

PyTorch's chunked `linear_cross_entropy` takes the output layer and the loss together, piece by piece.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

LARGE_VOCABULARY = 16_384
PLAIN_HEADS = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
"""Their logits are the output layer's, without scaling or capping."""


def fuse_loss(model: PreTrainedModel, vocabulary: int = LARGE_VOCABULARY) -> bool:
    """Have the model compute the loss of `RowCollator`'s batches so, where its vocabulary has at least that size.

    False, and nothing changed, for models with another head and where PyTorch (before 2.13) cannot do it.
    """
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is None or type(model).__name__ not in PLAIN_HEADS or model.config.vocab_size < vocabulary:
        return False
    plain = model.forward

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("shift_labels") is None or kwargs.get("labels") is None:
            return plain(*args, **kwargs)
        names = ("shift_labels", "logits_to_keep", "num_items_in_batch", "labels", "return_dict")
        targets, kept, count, _, _ = (kwargs.pop(name, None) for name in names)
        weight = model.lm_head.weight
        hidden = model.model(*args, **kwargs).last_hidden_state[0].index_select(0, kept).to(weight.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            loss = F.linear_cross_entropy(hidden, weight, targets[0], reduction="sum", options=options())
        return CausalLMOutputWithPast(loss=loss / (len(kept) if count is None else count))

    model.forward = forward
    return True
