"""A conversation to token ids: chat template, tools, pictures, and replies as sampled.

Knows nothing of weights. Everything comes from the model's folder; special ids are read from
the tokenizer, never assumed.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .config import ModelConfig
from .conversation import Conversation, Message
from .errors import BadCheckpoint, UsageError
from .images import Picture
from .textstream import TextStream
from .tokenizer import load_tokenizer, stop_ids
from .tools.call import ToolCall
from .tools.definitions import Tool, definitions
from .tools.parse import parse

__all__ = ["Encoded", "Message", "Prompt"]

OF_PICTURES = ("<|image|>", "<|patch|>")
# A noncharacter of Unicode: never part of a text.
UNMARKED = "\uffff"


@dataclass(frozen=True)
class Marks:
    """Private-use characters that no text of a conversation holds."""

    special: str  # put into what only looks like a special token
    picture: str  # stands for one
    reply: str  # stands for one whose ids are known

    @staticmethod
    def unused_in(*texts: Any) -> "Marks":
        used = set(json.dumps(texts, ensure_ascii=False, default=str))
        free = (c for c in map(chr, range(0xE000, 0xF8FF)) if c not in used)
        return Marks(next(free), next(free), next(free))


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as the model reads it."""

    ids: list[int]
    images: list[Picture]  # in the order of their placeholders
    begun: list[int] = field(default_factory=list)  # the last of `ids`, if they begin the reply

    def fingerprint(self, patch_id: int | None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[len(ids)]: what each position holds. A patch carries its picture's digest, so that
        equal prefixes of two fingerprints mean equal prefixes of the two prompts."""
        marks = np.array(self.ids, dtype=np.int64)
        places = np.flatnonzero(marks == patch_id)
        start = 0
        for image in self.images:
            marks[places[start : start + image.tokens]] = -int(image.digest[:15], 16) - 1
            start += image.tokens
        return marks


class Prompt:
    """Tokenizer and chat template of one model folder."""

    def __init__(self, tokenizer: Any, config: ModelConfig, stop_ids: frozenset[int], name: str):
        """`tokenizer` is mlx-lm's wrapper of a transformers tokenizer; see `from_folder`."""
        self.tokenizer, self.config, self.stop_ids, self.name = tokenizer, config, stop_ids, name
        self.special: dict[str, int] = {
            token.content: id
            for id, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self._special_pattern = re.compile("|".join(map(re.escape, self.special)) or r"(?!)")
        of_pictures = {self.special.get(token) for token in OF_PICTURES}
        self._never_sampled = {*stop_ids, *of_pictures, config.patch_token_id}
        self._detokenizer = tokenizer.detokenizer

    @staticmethod
    def from_folder(path: str | Path) -> "Prompt":
        """Read tokenizer, chat template and stop ids of a model folder.

        Raises NotFound or BadCheckpoint naming the file.
        """
        folder = Path(path)
        config = ModelConfig.from_folder(folder)
        tokenizer = load_tokenizer(folder)
        return Prompt(tokenizer, config, stop_ids(folder, tokenizer), str(folder))

    def detokenizer(self) -> Any:
        """A fresh streaming detokenizer (mlx-lm's); the token table is shared, not rebuilt."""
        fresh = copy.copy(self._detokenizer)
        fresh.reset()
        # It drops a space at the very beginning, which is part of a raw continuation; so
        # this is not the very beginning.
        fresh.text, fresh.offset = " ", 1
        return fresh

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text, without template or BOS."""
        return len(self.plain_ids(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text that a reply of these ids has, exactly as it is streamed."""
        stream = TextStream(self.detokenizer())
        return "".join([*map(stream.add, ids), stream.finish()])

    def encode(self, messages: str | Sequence[Message], tools: Sequence[Tool] = ()) -> Encoded:
        """A conversation, ready for the assistant's turn; a string is one user message.

        A message is `{"role", "content"}`; content is text, or a list of
        `{"type": "text", "text"}` and `{"type": "image", "image": path | bytes | PIL | URL}`.
        `tools` are functions that the model may call: OpenAI's definitions, or Python functions
        with type hints and docstrings. Calls come back as the assistant's `tool_calls`, and what
        they returned as `{"role": "tool", "tool_call_id", "content": text or anything JSON}`.
        An assistant message may carry `token_ids`, which were sampled for it: they take the
        place of its text if they say exactly the same, so that the KV cache stays valid.
        If the last message is the assistant's and `partial` is true, it is gone on with.
        Text is only ever text: what looks like a special token in it is spelled out.
        Raises UsageError, NotFound or BadImage; a message is never sent without its picture.
        """
        offered = definitions(tools)
        conversation = Conversation.of(messages, self.config)
        if offered:
            conversation.check_for_tools()
        marks = Marks.unused_in(conversation.messages, offered)
        plain = conversation.messages
        if offered:
            plain = conversation.with_placeholders(marks.picture)
        plain, replies = self._with_replies(plain, marks.reply)
        rendered = self._render(plain, offered, marks.special)
        if rendered.count(marks.reply) != len(replies):
            raise UsageError(
                f"the chat template of {self.name} does not show every reply; "
                "use the original chat_template.jinja"
            )
        texts = rendered.split(marks.reply)
        begun: list[int] = []
        if conversation.goes_on:  # what the template writes after it is left out
            texts[-1], begun = "", replies[-1]
        ids: list[int] = []
        for text, reply in zip(texts, [*replies, []], strict=True):
            ids += self._ids(text.replace(marks.picture, "<|image|>"), marks.special) + reply
        return Encoded(self._with_patches(ids, conversation.images), conversation.images, begun)

    def encode_text(self, text: str) -> Encoded:
        """A raw prompt after BOS, without template, for base models: special tokens in it
        are special. Raises UsageError if it is empty or names pictures."""
        if not text:
            raise UsageError("the prompt is empty; write some text")
        if not isinstance(text, str):
            raise UsageError(f"a raw prompt is text, not {type(text).__name__}")
        bos = self.tokenizer.bos_token or ""
        ids = self._ids(bos + text.removeprefix(bos), UNMARKED)
        if not {self.special.get(token) for token in OF_PICTURES}.isdisjoint(ids):
            raise UsageError("a raw prompt cannot hold pictures; use messages")
        return Encoded(ids, [])

    def _with_replies(
        self, messages: list[dict[str, Any]], placeholder: str
    ) -> tuple[list[dict[str, Any]], list[list[int]]]:
        """The messages with a placeholder for every reply whose ids are known and right, and
        those ids in order; also for one that is gone on with."""
        replies: list[list[int]] = []
        out = []
        for message in messages:
            message = {**message}
            ids, partial = message.pop("token_ids", None), message.pop("partial", False)
            known = ids is not None and self._are_reply(ids, message)
            if partial and not known:
                ids, known = self.plain_ids(message["content"]), True
            if known:
                replies.append(list(ids))
                # The calls are among the ids.
                message = {"role": message["role"], "content": placeholder}
            out.append(message)
        return out, replies

    def _are_reply(self, ids: Any, message: Mapping[str, Any]) -> bool:
        """Whether these ids say what the message says. Those that stop a reply or stand for
        pictures cannot be part of one. Raises UsageError for what are no token ids."""
        size = self.config.text.vocab_size
        listed = isinstance(ids, Sequence) and not isinstance(ids, str | bytes)
        if not listed or not all(type(id) is int and 0 <= id < size for id in ids):
            raise UsageError(f"token_ids is not a list of numbers from 0 to {size - 1:,}")
        if not self._never_sampled.isdisjoint(ids):
            return False
        text = self.decode(ids)
        calls = message.get("tool_calls", ())
        if not calls:
            return bool(text == message["content"])
        wanted = tuple(ToolCall.from_openai(call) for call in calls)
        parsed = parse(text, {call.name for call in wanted})
        return parsed.calls == wanted and message["content"] in (text, parsed.text)

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], mark: str
    ) -> str:
        """The template's text, in which special tokens that users wrote hold a mark."""
        if not self.tokenizer.chat_template:
            raise BadCheckpoint(
                f"{self.name} has no chat template (a base model?); "
                "use --raw (stream_text), or copy chat_template.jinja from the instruct model"
            )
        import jinja2

        try:
            text = self.tokenizer.apply_chat_template(
                self._escaped(messages, mark),
                tools=self._escaped(tools, mark) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except jinja2.TemplateSyntaxError as e:
            raise BadCheckpoint(
                f"{self.name}: the chat template is damaged (line {e.lineno}: {e.message}); "
                "copy chat_template.jinja from the original model"
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as e:
            # A template is a program: what it cannot handle fails inside it.
            raise UsageError(f"the chat template refuses these messages ({e})") from e
        return str(text)

    def _escaped(self, value: Any, mark: str) -> Any:
        """`value` with the mark in every special token of every string in it."""
        if isinstance(value, str):
            return self._special_pattern.sub(lambda m: m[0][0] + mark + m[0][1:], value)
        if isinstance(value, Mapping):
            return {
                self._escaped(key, mark): self._escaped(item, mark) for key, item in value.items()
            }
        if isinstance(value, Sequence):
            return [self._escaped(item, mark) for item in value]
        return value

    def _ids(self, text: str, mark: str) -> list[int]:
        """Token ids. Special tokens split the text before anything else in the tokenizer
        too, so encoding what is between them gives the same ids as encoding the whole, and
        lets the parts that only look special stay text. The template writes BOS itself."""
        ids: list[int] = []
        at = 0
        for match in self._special_pattern.finditer(text):
            ids += self.plain_ids(text[at : match.start()].replace(mark, ""))
            ids.append(self.special[match[0]])
            at = match.end()
        return ids + self.plain_ids(text[at:].replace(mark, ""))

    def plain_ids(self, text: str) -> list[int]:
        """Ids of text, without template or BOS; nothing in it is special. Raises UsageError
        for what is not Unicode."""
        if not text:
            return []
        if not _is_unicode(text):
            raise UsageError("the text holds half a character (a lone surrogate); is it UTF-8?")
        encoded: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return encoded

    def _with_patches(self, ids: list[int], images: list[Picture]) -> list[int]:
        """Each `<|image|>` replaced by the tiles of its picture, in order."""
        image_id = self.special.get("<|image|>")
        places = ids.count(image_id) if image_id is not None else 0
        if places != len(images):
            raise UsageError(
                f"{len(images)} pictures for {places} placeholders: the chat template of "
                f"{self.name} does not show pictures; use the original chat_template.jinja"
            )
        if not images:
            return ids
        out: list[int] = []
        left = iter(images)
        for id in ids:
            out += self._tiles(next(left)) if id == image_id else [id]
        return out

    def _tiles(self, image: Picture) -> list[int]:
        """Rows of tiles with separators, then the global tile; just one where that is all."""
        patch = self._id("<|patch|>")
        if patch != self.config.patch_token_id:
            raise BadCheckpoint(
                f"{self.name}: <|patch|> is {patch} in the tokenizer, but image_token_index is "
                f"{self.config.patch_token_id} in config.json; copy both from the original model"
            )
        tile = [patch] * (image.tokens // image.tiles)
        rows, columns = image.grid
        ids = [self._id("<|image_start|>")]
        if image.tiles > 1:
            across, down = self._id("<|tile_x_separator|>"), self._id("<|tile_y_separator|>")
            row = [*tile, *([across, *tile] * (columns - 1)), down]
            ids += row * rows
        return [*ids, self._id("<|image|>"), *tile, self._id("<|image_end|>")]

    def _id(self, token: str) -> int:
        if token not in self.special:
            raise BadCheckpoint(
                f"{self.name}: the tokenizer has no {token}, so the model cannot be shown "
                "pictures; copy tokenizer.json from the original model"
            )
        return self.special[token]


def _is_unicode(text: str) -> bool:
    """Python lets strings hold what no encoding can, for instance from broken arguments."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
