"""Training files of every format, the base model's chat template, labels, statistics and the validation split."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerBase

from trading_llm.data import IGNORED, Completions, split
from trading_llm.dataset import Record, prompt_and_completion, simulated_dataset
from trading_llm.errors import UsageError
from trading_llm.examples import Chat, Example, Message, Pair, read_examples
from trading_llm.model import load_base
from trading_llm.texts import TextForm, use_chat_template

RECORDS = simulated_dataset(30, 1)[0]
CHAT = {
    "messages": [
        {"role": "system", "content": "You explain trades."},
        {"role": "user", "content": "rsi_14: 71.3"},
        {"role": "assistant", "content": "SELL"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "RSI is overbought."},
    ]
}
PAIR = {"prompt": "rsi_14: 28", "completion": " BUY"}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return load_base("embedded", "none")[1]


def write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    else:
        keys = {key: None for record in records for key in record}
        columns = {key: pyarrow.array([record.get(key) for record in records]) for key in keys}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_every_kind_of_record_in_every_format(tmp_path: Path, suffix: str) -> None:
    kinds: list[tuple[dict[str, Any], Example]] = [
        (asdict(RECORDS[0]), RECORDS[0]),
        (PAIR, Pair("rsi_14: 28", " BUY")),
        (CHAT, Chat(tuple(Message(**message) for message in CHAT["messages"]))),
    ]
    assert read_examples(write(tmp_path / f"all{suffix}", [raw for raw, _ in kinds])) == [e for _, e in kinds]


def test_figures_that_a_row_of_parquet_lacks_are_absent(tmp_path: Path) -> None:
    raw = [asdict(record) for record in RECORDS[:2]]
    del raw[0]["market_state"]["macd"]
    first, second = read_examples(write(tmp_path / "a.parquet", raw))
    assert isinstance(first, Record)
    assert "macd" not in first.market_state
    assert second == RECORDS[1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "found the file type '.txt'; allowed: .json, .jsonl, .parquet"),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}', "one record per line: name the file .jsonl"),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}\n\n{"prompt": }', "line 3: Expecting value"),
        ("a.jsonl", "\n", "found no record"),
        ("a.jsonl", '{"prompt": "a"}', "line 1: completion: found 'nothing'; allowed: a text that is not empty"),
        ("a.jsonl", '{"prompt": "a", "completion": 3}', "line 1: completion: found 3"),
        ("a.jsonl", '{"text": "a"}', "line 1: keys: found 'text'; allowed: messages; prompt and completion"),
        ("a.json", '[{"messages": "hi"}]', "record 1: messages: found 'hi'"),
        ("a.json", '[{"messages": [{"role": "user", "content": "a"}, {"role": "bot"}]}]',
         "record 1: messages[1].role: found 'bot'; allowed: system, user, assistant"),
        ("a.json", '[{"messages": [{"role": "user", "content": ""}, {"role": "user"}]}]',
         "record 1: messages[0].content: found ''"),
        ("a.json", '[{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}]',
         "record 1: messages[1].role: found 'user'; allowed: assistant, in the last one"),
        ("a.parquet", "no parquet", "allowed: a Parquet file"),
    ],
)  # fmt: skip
def test_wrong_records_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def text_and_learnt(data: Completions, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    return [
        (tokenizer.decode(item["input_ids"]), tokenizer.decode([i for i in item["labels"] if i != IGNORED]))
        for item in data.items
    ]


def test_without_a_template_the_loss_covers_the_completion_and_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    data = Completions([RECORDS[0], Pair("rsi_14: 28", " BUY")], tokenizer, 512, "here")
    prompt, completion = prompt_and_completion(RECORDS[0])
    assert text_and_learnt(data, tokenizer) == [
        (f"<s>{prompt}{completion}</s>", f"{completion}</s>"),
        ("<s>rsi_14: 28 BUY</s>", " BUY</s>"),
    ]
    assert data.statistics.cut == data.statistics.left_out == 0
    assert data.statistics.tokens == sum(len(item["input_ids"]) for item in data.items)


def test_the_chat_template_is_used_and_every_answer_is_learnt(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    use_chat_template(tokenizer, tmp_path / "t.jinja")
    chat = Chat(tuple(Message(**message) for message in CHAT["messages"]))
    data = Completions([chat, Pair("rsi_14: 28", " BUY")], tokenizer, 512, "here")
    assert text_and_learnt(data, tokenizer) == [
        (
            "<s>[system]You explain trades.</s>[user]rsi_14: 71.3</s>[assistant]SELL</s>"
            "[user]Why?</s>[assistant]RSI is overbought.</s>",
            "SELL</s>RSI is overbought.</s>",
        ),
        ("<s>[user]rsi_14: 28</s>[assistant]BUY</s>", "BUY</s>"),
    ]
    assert TextForm(tokenizer).prompt(chat).endswith("[user]Why?</s>[assistant]")


def test_a_template_that_rewrites_earlier_answers_teaches_the_last(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content if m.role != 'assistant' or loop.last else '...' }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    data = Completions([Chat(tuple(Message(**m) for m in CHAT["messages"]))], tokenizer, 512, "here")
    [(text, learnt)] = text_and_learnt(data, tokenizer)
    assert "[assistant]..." in text
    assert learnt == "RSI is overbought."


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "here: record 2: messages: the base model has no chat template; allowed: with --chat-template"),
        ("{{ raise_exception('roles must alternate') }}", "here: record 1: chat template: roles must alternate"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}[x]{% endif %}",
         "here: record 1: chat template: the text of the last answer does not begin where its prompt ends"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_text_is_named(
    tokenizer: PreTrainedTokenizerBase, template: str | None, words: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match=re.escape(words)):
        Completions([Pair("a", "b"), Chat((Message("user", "a"), Message("assistant", "b")))], tokenizer, 512, "here")


def test_truncation_is_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = Completions(RECORDS, tokenizer, 10_000, "here").statistics
    data = Completions([*RECORDS, Pair("x " * 2000, "y")], tokenizer, whole.longest - 1, "here")
    assert data.statistics.left_out == 1
    assert data.statistics.cut >= 1
    assert data.statistics.truncated_share == (data.statistics.cut + 1) / 31
    assert "truncated at --max-length" in str(data.statistics)
    assert max(len(item["input_ids"]) for item in data.items) == whole.longest - 1
    with pytest.raises(UsageError, match=r"here: no record fits --max-length: found 9.*allowed: \d+ or more"):
        Completions(RECORDS, tokenizer, 9, "here")


def test_the_generators_records_are_split_by_time() -> None:
    training, validation = split(RECORDS, 0.1, seed=1)
    assert len(validation) == 3
    assert max(r.timestamp for r in training) <= min(r.timestamp for r in validation)


def test_other_records_are_split_by_chance_and_small_sets_are_not() -> None:
    pairs: list[Example] = [Pair(str(n), "x") for n in range(40)]
    training, validation = split(pairs, 0.1, seed=1)
    assert (len(training), len(validation)) == (36, 4)
    assert set(training) | set(validation) == set(pairs)
    assert split(pairs, 0.1, seed=1) == (training, validation)
    assert split(pairs, 0.1, seed=2) != (training, validation)
    assert split(pairs[:19], 0.1, seed=1) == (pairs[:19], [])
    assert split(pairs, 0, seed=1)[1] == []
