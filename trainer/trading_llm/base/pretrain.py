"""Make the embedded base model and its tokenizer: `python -m trading_llm.base.pretrain [--output DIR]`.

The shipped model was made in three goes, the later ones with more of the task's language, while the corpus grew; the
same commands today give one of the same kind, and not the same weights:

    python -m trading_llm.base.pretrain --output FIRST
    python -m trading_llm.base.pretrain --go-on FIRST --steps 250 --learning-rate 8e-4 --clippings 0.6 --seed 2
    python -m trading_llm.base.pretrain --go-on SECOND --steps 150 --learning-rate 8e-4 --clippings 0.6 --seed 3

Each go is seeded: the same corpus, library versions, thread count and processor give the same weights. The first takes
about half an hour on one core; the maintainers run it, and ship what comes out (model.safetensors, fp16).
"""

import argparse
import math
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trading_llm.base.corpus import CLIPPINGS, RELATIONS, clippings, comparison, document, documents, recital
from trading_llm.base.priming import prime

HERE = Path(__file__).parent
VOCABULARY = 1536
LENGTH = 224  # tokens per training sequence: most documents are shorter
DRILLS = 0.25  # share of the steps, at the start, in which only figures and what is said of them count
COMPARISONS = 0.4  # share of the comparisons among the drills

#: A figure is cut into pieces of two digits, those behind its point with the point; the mark between a name and its
#: figure is one piece, and so is a word, with the blank before it.
PIECES = r": |\n|\.?\d{1,2}|-| ?\p{L}+| ?[^\s\p{L}\d-]+|\s+"
#: Words of its prompts that the corpus does not have.
_NAMES = (
    "symbol: close: sma_20: sma_20_distance_percent: ema_50: ema_50_distance_percent: rsi_14: macd: macd_histogram: "
    "bollinger_percent_b: atr_percent: volume_ratio: explanation: action: BUY action: SELL action: HOLD"
)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE on PIECES."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs = " ".join([*(f"{pair:02d} .{pair:02d}" for pair in range(100)), *(f".{digit}" for digit in range(10))])
    # What must be one token is said often enough to become one.
    certain = [pairs, _NAMES, " " + " ".join(RELATIONS)]
    rng = np.random.default_rng(seed)
    words = (clippings(rng) for _ in range(6000))
    tokenizer.train_from_iterator([*documents(6000, seed), *words, *certain * 400], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    prime(model, torch.Generator().manual_seed(seed))
    return model


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    drills: float = DRILLS,
    share_of_clippings: float = CLIPPINGS,
) -> None:
    """Next-token training on fresh documents at every step; cosine schedule with 5 % warm-up, AdamW, clip 1."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    warmup = max(1, steps // 20)
    begin, smooth = time.monotonic(), math.log(len(tokenizer))
    model.train()
    for step in range(1, steps + 1):
        decay = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / (steps - warmup)))
        share = min(step / warmup, 0.05 + 0.95 * decay)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        drilled = step <= drills * steps
        ids, labels = drill(tokenizer, batch, rng) if drilled else text(tokenizer, batch, rng, share_of_clippings)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth += 0.05 * (loss.item() - smooth)
        if step % 25 == 0 or step == 1:
            print(f"step {step}/{steps}  loss {smooth:.3f}  {time.monotonic() - begin:.0f} s", flush=True)


def text(
    tokenizer: PreTrainedTokenizerFast, batch: int, rng: np.random.Generator, share_of_clippings: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, labels) of `batch` documents, every token counted."""
    documents = (document(rng, share_of_clippings) for _ in range(batch))
    return _padded([tokenizer(f"<s>{document}</s>")["input_ids"] for document in documents], None)


def drill(
    tokenizer: PreTrainedTokenizerFast, batch: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, labels) of `batch` recitals and comparisons; only figures and what is said of them count."""
    parts = [tokenizer(list((comparison if rng.random() < COMPARISONS else recital)(rng)))["input_ids"]
             for _ in range(batch)]  # fmt: skip
    counted = _counted_tokens(tokenizer)
    ids = [[tokenizer.bos_token_id, *listed, *said] for listed, said in parts]
    labels = [[-100, *[-100] * len(listed), *(i if counted[i] else -100 for i in said)] for listed, said in parts]
    return _padded(ids, labels)


@cache
def _counted_tokens(tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """Whether each token is a piece of a figure, or says something of one."""
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    return [set(text) <= set("0123456789.-") or text.strip() in RELATIONS for text in texts]


def _padded(ids: list[list[int]], labels: list[list[int]] | None) -> tuple[torch.Tensor, torch.Tensor]:
    longest = min(LENGTH, max(map(len, ids)))

    def rectangle(rows: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([(row + [fill] * longest)[:longest] for row in rows])

    # Padding on the right needs no mask: no counted token comes after it.
    return rectangle(ids, 0), rectangle(ids if labels is None else labels, -100)


def main() -> None:
    parser = argparse.ArgumentParser(description="make the embedded base model")
    parser.add_argument("--output", type=Path, default=HERE, help="directory for the files (default: the package)")
    parser.add_argument("--go-on", type=Path, metavar="DIR", help="from the model there, without drills")
    parser.add_argument("--clippings", type=float, default=CLIPPINGS, help="share of the documents (%(default)s)")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.go_on is not None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.go_on)
        model = LlamaForCausalLM.from_pretrained(options.go_on, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(options.seed)
        model = make_model(tokenizer, options.seed)
    print(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens", flush=True)
    drills = 0.0 if options.go_on is not None else DRILLS
    pretrain(
        model, tokenizer, options.steps, options.batch, options.learning_rate, options.seed, drills, options.clippings
    )
    model.to(torch.float16).save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
