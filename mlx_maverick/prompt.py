"""Messages to token ids: tokenizer, chat template, picture placeholders, stop ids.

Knows nothing of weights. Everything comes from the model's folder; special ids are read from
the tokenizer, never assumed.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .config import ModelConfig, read_json
from .errors import BadCheckpoint, NotFound, UsageError
from .images import Picture, load_picture

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool", "ipython")
# A noncharacter of Unicode: never part of a text.
UNMARKED = "\uffff"
STOP_TOKENS = ("<|end_of_text|>", "<|eom|>", "<|eot|>")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as the model reads it."""

    ids: list[int]
    images: list[Picture]  # in the order of their placeholders

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
        self._detokenizer = tokenizer.detokenizer

    @staticmethod
    def from_folder(path: str | Path) -> "Prompt":
        """Read tokenizer, chat template and stop ids of a model folder.

        Raises NotFound or BadCheckpoint naming the file.
        """
        folder = Path(path)
        config = ModelConfig.from_folder(folder)
        if not (folder / "tokenizer.json").is_file():
            raise NotFound(f"{folder} has no tokenizer.json; copy it from the original model")
        tokenizer = _load_tokenizer(folder)
        return Prompt(tokenizer, config, _stop_ids(folder, tokenizer), str(folder))

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
        return len(self._plain(text))

    def encode(self, messages: str | Sequence[Message]) -> Encoded:
        """A conversation, ready for the assistant's turn; a string is one user message.

        A message is `{"role", "content"}`; content is text, or a list of
        `{"type": "text", "text"}` and `{"type": "image", "image": path | bytes | PIL | URL}`.
        Text is only ever text: what looks like a special token in it is spelled out.
        Raises UsageError, NotFound or BadImage; a message is never sent without its picture.
        """
        images: list[Picture] = []
        plain = [self._message(m, images) for m in _listed(messages)]
        last = plain[-1]
        if last["role"] == "assistant":
            raise UsageError("the last message is the assistant's; end with a user's")
        if last["role"] == "system" or not _says_something(last["content"]):
            raise UsageError("the prompt is empty; write a message")
        rendered, mark = self._render(plain)
        ids = self._ids(rendered, mark)
        return Encoded(self._with_patches(ids, images), images)

    def encode_text(self, text: str) -> Encoded:
        """A raw prompt after BOS, without template, for base models: special tokens in it
        are special. Raises UsageError if it is empty or names pictures."""
        if not text:
            raise UsageError("the prompt is empty; write some text")
        bos = self.tokenizer.bos_token or ""
        ids = self._ids(bos + text.removeprefix(bos), UNMARKED)
        if self.special.get("<|image|>") in ids:
            raise UsageError("a raw prompt cannot hold pictures; use messages")
        return Encoded(ids, [])

    def _message(self, message: Message, images: list[Picture]) -> dict[str, Any]:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UsageError(f"role {role!r} is not one of {', '.join(ROLES)}")
        if content is None and message.get("tool_calls"):
            content = ""  # as OpenAI's clients write it
        if isinstance(content, str):
            return {**message, "content": content}
        if not isinstance(content, Sequence):
            raise UsageError("content is neither text nor a list of text and image parts")
        parts = []
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text" and isinstance(part.get("text"), str):
                parts.append({"type": "text", "text": part["text"]})
            elif kind in ("image", "image_url"):
                if role != "user":
                    raise UsageError(f"a {role} message cannot hold a picture; only a user's can")
                images.append(load_picture(_image_source(part), self.config))
                parts.append({"type": "image"})
            else:
                raise UsageError(f"content part {kind!r} is neither text nor an image")
        if all(p["type"] == "text" for p in parts):
            # Templates differ in how they take lists; plain text is the same in all.
            return {**message, "content": "".join(p["text"] for p in parts)}
        return {**message, "content": parts}

    def _render(self, messages: list[dict[str, Any]]) -> tuple[str, str]:
        """The template's text, in which special tokens that users wrote begin with a mark."""
        if not self.tokenizer.chat_template:
            raise BadCheckpoint(
                f"{self.name} has no chat template (a base model?); "
                "use --raw (stream_text), or copy chat_template.jinja from the instruct model"
            )
        import jinja2

        mark = _unused_character(messages)
        marked = [
            {"role": m["role"], **{k: self._escaped(v, mark) for k, v in m.items() if k != "role"}}
            for m in messages
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                marked, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateSyntaxError as e:
            raise BadCheckpoint(
                f"{self.name}: the chat template is damaged (line {e.lineno}: {e.message}); "
                "copy chat_template.jinja from the original model"
            ) from None
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as e:
            # A template is a program: what it cannot handle fails inside it.
            raise UsageError(f"the chat template refuses these messages ({e})") from e
        return str(text), mark

    def _escaped(self, value: Any, mark: str) -> Any:
        """`value` with the mark in every special token of every string in it."""
        if isinstance(value, str):
            return self._special_pattern.sub(lambda m: m[0][0] + mark + m[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self._escaped(item, mark) for key, item in value.items()}
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
            ids += self._plain(text[at : match.start()].replace(mark, ""))
            ids.append(self.special[match[0]])
            at = match.end()
        return ids + self._plain(text[at:].replace(mark, ""))

    def _plain(self, text: str) -> list[int]:
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


def _load_tokenizer(folder: Path) -> Any:
    """mlx-lm's wrapper of the folder's fast tokenizer.

    Not AutoTokenizer: it would offer to run code of the folder, and it refuses folders whose
    config.json an older transformers wrote. Llama 4's tokenizer is always tokenizer.json.
    """
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return TokenizerWrapper(tokenizer, BPEStreamingDetokenizer)
    except Exception as e:  # noqa: BLE001 - tokenizers raises bare Exceptions for bad files
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise BadCheckpoint(
            f"{folder}: the tokenizer cannot be loaded ({reason}); "
            "copy tokenizer.json and tokenizer_config.json from the original model"
        ) from None


def _stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """All ids that end a turn: generation_config's, the tokenizer's own, and end_of_text,
    eom and eot by name, since older copies list only some of them."""
    ids = {tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(t) for t in STOP_TOKENS)}
    ids.discard(tokenizer.unk_token_id)
    if (folder / "generation_config.json").is_file():
        listed = read_json(folder / "generation_config.json").get("eos_token_id", [])
        ids |= set(listed) if isinstance(listed, list) else {listed}
    return frozenset(id for id in ids if isinstance(id, int))


def _listed(messages: str | Sequence[Message]) -> list[Message]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    listed = isinstance(messages, Sequence) and not isinstance(messages, bytes)
    if not listed or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise UsageError("messages is not a list of {'role', 'content'} objects")
    return list(messages)


def _image_source(part: Mapping[str, Any]) -> Any:
    """The picture of a content part, in our spelling or OpenAI's."""
    source = part.get("image", part.get("path", part.get("url")))
    if source is None and isinstance(part.get("image_url"), Mapping):
        source = part["image_url"].get("url")
    if source is None:
        raise UsageError("an image part has no 'image'; give a path, bytes or a PIL image")
    return source


def _says_something(content: Any) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return any(p["type"] == "image" or p["text"].strip() for p in content)


def _is_unicode(text: str) -> bool:
    """Python lets strings hold what no encoding can, for instance from broken arguments."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unused_character(messages: list[dict[str, Any]]) -> str:
    """A private-use character that no message contains."""
    used = set(json.dumps(messages, ensure_ascii=False, default=str))
    return next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in used)
