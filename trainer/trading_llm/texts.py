"""From an example to the text that the model sees: the base model's chat template, or plain text where it has none."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from trading_llm.dataset import Record, prompt_and_completion
from trading_llm.errors import UsageError
from trading_llm.examples import Chat, Example, Message

Segment = tuple[str, bool]  # (text, whether the loss covers it)


def use_chat_template(tokenizer: PreTrainedTokenizerBase, path: Path | None) -> None:
    """Have `tokenizer` use the Jinja template in `path` instead of its own. Raises UsageError."""
    if path is None:
        return
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template: found {path} ({error}); allowed: a Jinja template") from None


class TextForm:
    """How examples become text for one tokenizer.

    With a chat template a prompt is the user's message and the completion the assistant's. Without one the text is
    `[bos] prompt completion [eos]`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.templated = tokenizer.chat_template is not None

    def segments(self, example: Example) -> list[Segment]:
        """The whole text in pieces. Raises UsageError where the template does not take the example."""
        if not self.templated:
            prompt, completion = self._plain(example)
            return [(self._begin + prompt, False), (completion + self._end, True)]
        messages = self._messages(example)
        whole = self._render(messages)
        segments, done = [], 0
        for place, message in enumerate(messages):
            if message.role != "assistant":
                continue
            # A template may leave out what earlier turns thought: such a turn is context, and not learnt.
            before, through = self._render(messages[:place], answer=True), self._render(messages[: place + 1])
            if done <= len(before) < len(through) and whole.startswith(before) and whole.startswith(through):
                segments += [(whole[done : len(before)], False), (whole[len(before) : len(through)], True)]
                done = len(through)
        if not segments or not segments[-1][1] or done < len(whole.rstrip()):
            raise UsageError("chat template: the text of the last answer does not begin where its prompt ends")
        return segments

    def prompt(self, example: Example) -> str:
        """What the model is given when it is to write the (last) completion itself."""
        if not self.templated:
            return self._begin + self._plain(example)[0]
        return self._render(self._messages(example)[:-1], answer=True)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Special tokens are part of the texts, so none is added."""
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    @property
    def _begin(self) -> str:
        return self._tokenizer.bos_token or ""

    @property
    def _end(self) -> str:
        return self._tokenizer.eos_token or ""

    def _plain(self, example: Example) -> tuple[str, str]:
        if isinstance(example, Chat):
            raise UsageError("messages: the base model has no chat template; allowed: with --chat-template FILE")
        return prompt_and_completion(example) if isinstance(example, Record) else (example.prompt, example.completion)

    def _messages(self, example: Example) -> Sequence[Message]:
        if isinstance(example, Chat):
            return example.messages
        prompt, completion = self._plain(example)
        return Message("user", prompt), Message("assistant", completion.strip())

    def _render(self, messages: Sequence[Message], answer: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [asdict(message) for message in messages], tokenize=False, add_generation_prompt=answer
            )
        except TemplateError as error:
            raise UsageError(f"chat template: {error}") from None
        return str(text)
