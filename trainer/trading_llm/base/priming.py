"""A start for the embedded model from which it can learn to quote: two heads that look up what stood above.

To quote a figure from a prompt a model needs an induction circuit (Olsson et al., 2022): a head that tells each
position which token came before it, and one in a later layer that looks for the place where the present token came
before, and takes what followed. Random weights find that circuit only after tens of millions of tokens, hours on one
core; these begin with a rough one, and training makes of it what the text needs.
"""

import math

import torch
from transformers import LlamaForCausalLM

#: What each head of the first layer looks at: tokens back, and how many of the fastest rotary frequencies make it
#: sharp; the last one sees a few tokens.
_LOOK_BACK = ((1, 4, 9.0), (2, 4, 9.0), (2, 6, 4.0))  # (tokens back, frequencies, logit)
_LOOK_UPS = 2  # heads of the second layer that look up

#: Below this many radians per token a rotary frequency hardly turns over the length of a prompt.
_SLOW = 0.006


@torch.no_grad()  # type: ignore[untyped-decorator]
def prime(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Set heads of the first two layers in place; all else keeps its random start."""
    config = model.config
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = size // 2
    theta = config.rope_parameters["rope_theta"]
    turns = [theta ** (-i / half) for i in range(half)]

    # One coordinate is the same for all tokens: heads that go by position alone need something to hold on to.
    embedding = model.model.embed_tokens.weight
    embedding.mul_(4)
    spread = float(embedding.std())
    embedding[:, 0] = spread * math.sqrt(hidden)
    constant = math.sqrt(hidden / 2)  # what the norm makes of it

    own, carried = _rotation(hidden, generator), _rotation(hidden, generator)
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    for head, (back, frequencies, logit) in enumerate(_LOOK_BACK):
        rows = slice(head * size, (head + 1) * size)
        key, query = torch.zeros(size), torch.zeros(size)
        amplitude = math.sqrt(logit * math.sqrt(size) / frequencies) / constant
        for i in range(frequencies):
            key[i] = amplitude
            query[i] = amplitude * math.cos(turns[i] * back)
            query[i + half] = -amplitude * math.sin(turns[i] * back)
        for weight, constant_part in ((first.k_proj.weight, key), (first.q_proj.weight, query)):
            weight[rows] *= 0.3
            weight[rows, 0] = constant_part
        # What it saw goes into a part of the stream of its own.
        first.v_proj.weight[rows] = 0.7 * own[:size]
        first.o_proj.weight[:, rows] = 0.3 * carried[rows].T

    slow = [i for i in range(half) if turns[i] < _SLOW]
    matched = torch.tensor([*slow, *(i + half for i in slow)])
    for head in range(_LOOK_UPS):
        rows = slice(head * size, (head + 1) * size)
        places = head * size + matched
        chosen = torch.randperm(size, generator=generator)[: len(matched)]
        second.q_proj.weight[rows] *= 0.3
        second.k_proj.weight[rows] *= 0.3
        second.q_proj.weight[places] += 2.0 * own[:size][chosen]
        second.k_proj.weight[places] += 2.0 * carried[rows][chosen]
        taken = _rotation(hidden, generator)[:size]
        second.v_proj.weight[rows] = 0.7 * taken
        second.o_proj.weight[:, rows] = 0.3 * taken.T


def _rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """A random orthogonal matrix, (size, size)."""
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
