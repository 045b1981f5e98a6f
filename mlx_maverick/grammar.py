"""Replies that a JSON schema allows, and no others: masks over the logits.

Knows nothing of models or sampling. llguidance says which tokens may come next; what it cannot
enforce is refused before a reply begins.
"""

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .errors import UsageError
from .prompt import Prompt
from .tokenizer import token_bytes

# Without a bound, a reply could be white space for ever.
WHITESPACE = r"\n?[ \t]{0,40}"
# Keywords whose values are data, in which a keyword's name means nothing.
DATA = ("enum", "const", "default", "examples", "example")

_tokenizers: "weakref.WeakKeyDictionary[Prompt, Any]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class JsonSchema:
    """A schema whose answers can be enforced. One serves any number of replies."""

    grammar: str  # llguidance's

    @staticmethod
    def parse(source: str | bytes | Mapping[str, Any]) -> "JsonSchema":
        """From the text of a schema, or the schema itself.

        Objects come with their properties in the schema's order. Raises UsageError that says
        where the text is not JSON, or what of the schema cannot be enforced.
        """
        schema = _loaded(source) if isinstance(source, str | bytes) else source
        if not isinstance(schema, Mapping):
            raise UsageError("the JSON schema is not an object")
        try:
            _check_counts(schema)
        except RecursionError:
            raise UsageError("the JSON schema is nested too deeply") from None
        from llguidance import LLMatcher

        try:
            text = json.dumps(schema, allow_nan=False)
            grammar = LLMatcher.grammar_from_json_schema(
                text, overrides={"lenient": False, "coerce_one_of": False,
                                 "whitespace_pattern": WHITESPACE},
            )  # fmt: skip
        except (TypeError, ValueError, RecursionError) as e:
            raise UsageError(f"the JSON schema is not JSON ({_line(e)})") from None
        if complaint := LLMatcher.validate_grammar(grammar):
            raise UsageError(f"the JSON schema cannot be enforced: {_line(complaint)}")
        return JsonSchema(grammar)


def constraint(schema: JsonSchema, prompt: Prompt) -> "Constraint":
    """What holds one reply to the schema. Raises UsageError if the schema asks too much."""
    return Constraint(schema, prompt)


class Constraint:
    """The state of one reply: `mask` the logits, sample, `accept` the token, and again.

    It belongs to one thread.
    """

    def __init__(self, schema: JsonSchema, prompt: Prompt):
        from llguidance import LLMatcher

        tokenizer = _tokenizer(prompt)
        self._stop_ids = sorted(prompt.stop_ids)
        self._matcher = LLMatcher(tokenizer, schema.grammar, log_level=0)
        self._bits = np.zeros((tokenizer.vocab_size + 31) // 32, dtype=np.int32)
        self._stopped = False
        self._check()

    @property
    def finished(self) -> bool:
        """The answer is whole: only a stop token may follow, or, after one, nothing."""
        return self._stopped or bool(self._matcher.is_stopped())

    def mask(self, logits: mx.array) -> mx.array:
        """`logits` [1, V] with -inf for what may not come next. Stop tokens may come when the
        answer is complete, and never before. V may exceed the tokenizer's vocabulary."""
        size = logits.shape[-1]
        allowed = np.zeros(size, dtype=np.bool_)
        if not self.finished:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check()
            bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[:size]
            allowed[: len(bits)] = bits
        # llguidance knows one of them.
        allowed[[id for id in self._stop_ids if 0 <= id < size]] = self._complete
        if not allowed.any():
            raise UsageError("the JSON schema asks for text that this tokenizer cannot write")
        return mx.where(mx.array(allowed)[None], logits, -float("inf"))

    def accept(self, id: int) -> None:
        """Go on with a sampled token. Raises UsageError for one that may not come here."""
        stop = id in self._stop_ids
        if self._stopped or (stop and not self._complete):
            raise UsageError(f"token {id} cannot come here: the JSON schema does not allow it")
        if stop:
            self._stopped = True
        elif self.finished or not self._matcher.validate_tokens([id]):
            raise UsageError(f"token {id} cannot come here: the JSON schema does not allow it")
        else:
            self._matcher.consume_token(id)
            self._check()

    @property
    def _complete(self) -> bool:
        return self.finished or bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UsageError(
                f"the JSON schema is too much to enforce: {_line(self._matcher.get_error())}"
            )


class _Vocabulary:
    """A prompt's tokens as llguidance wants them."""

    def __init__(self, prompt: Prompt):
        # llguidance keeps this object where Python cannot look for circles.
        self._prompt = weakref.ref(prompt)
        self.tokens = token_bytes(prompt.tokenizer)
        self.special_token_ids = sorted(prompt.special.values())
        self.bos_token_id = None
        # It knows one stop token; `Constraint` sees to all of them.
        stop_ids = prompt.stop_ids & set(self.special_token_ids)
        self.eos_token_id = min(stop_ids or prompt.stop_ids)

    def __call__(self, text: str | bytes) -> list[int]:
        """Plain text to ids. With the tokenizer itself, llguidance would turn `<|eot|>` in a
        schema's strings into the special token."""
        prompt = self._prompt()
        assert prompt is not None  # who asks holds it
        return prompt.plain_ids(text if isinstance(text, str) else text.decode())


def _tokenizer(prompt: Prompt) -> Any:
    """llguidance's view of a vocabulary: about a second for 200,000 tokens, so it is kept."""
    if prompt not in _tokenizers:
        from llguidance import LLTokenizer, TokenizerWrapper

        wrapped = TokenizerWrapper(_Vocabulary(prompt))
        _tokenizers[prompt] = LLTokenizer(wrapped, slices=LLTokenizer.json_slices())
    return _tokenizers[prompt]


def _loaded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError("the JSON schema is nested too deeply") from None
    except UnicodeDecodeError as e:
        raise UsageError(f"the JSON schema is not UTF-8 text (byte {e.start})") from None
    except json.JSONDecodeError as e:
        raise UsageError(
            f"the JSON schema is not JSON: {e.msg} in line {e.lineno}, column {e.colno}"
        ) from None


def _check_counts(schema: Any) -> None:
    """Refuses what llguidance takes but does not hold: names that `properties` does not list
    may come twice, so they cannot be counted."""
    if isinstance(schema, list):
        for item in schema:
            _check_counts(item)
    if not isinstance(schema, Mapping):
        return
    least, required = schema.get("minProperties"), schema.get("required")
    count = len(required) if isinstance(required, list | tuple) else 0
    if isinstance(least, int) and least > max(1, count):
        raise UsageError(
            f"the JSON schema cannot be enforced: minProperties {least} is more than the "
            "required properties; list the properties as required"
        )
    for key, value in schema.items():
        if key not in DATA:
            _check_counts(value)


def _line(message: object) -> str:
    """The first line that says something, of what may show a whole grammar."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["unknown reason"])[0][:300]
