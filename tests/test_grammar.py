"""Answers held to a JSON schema: whatever is sampled, what comes out validates."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import jsonschema
import mlx.core as mx
import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.grammar import Constraint, JsonSchema, constraint
from mlx_maverick.prompt import Prompt
from mlx_maverick.tokenizer import token_bytes

# Each bounds its answers, so that every sample ends.
SCHEMAS: dict[str, Any] = {
    "nested": {
        "type": "object",
        "properties": {
            "person": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 12},
                               "age": {"type": "integer", "minimum": 0, "maximum": 130}},
                "required": ["name", "age"],
                "additionalProperties": False,
            },
            "ok": {"type": "boolean"},
        },
        "required": ["person", "ok"],
        "additionalProperties": False,
    },
    "arrays": {"type": "array", "minItems": 2, "maxItems": 5,
               "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    "tuple": {"type": "array", "prefixItems": [{"type": "null"}, {"enum": ["a", 1]}],
              "items": False, "minItems": 2},
    "enum": {"enum": ["red", "grün", "blau \U0001f499", 5, -1.5, None, True, [1], {"a": "b"}]},
    "numbers": {
        "type": "object",
        "properties": {
            "a": {"type": "number", "minimum": -2.5, "maximum": 17.25},
            "b": {"type": "integer", "exclusiveMinimum": -8, "exclusiveMaximum": 1000},
            "c": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
        },
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,6}(é|ß)?$"},
    "lengths": {"type": "array", "maxItems": 3, "items": {"type": "string", "minLength": 3,
                                                         "maxLength": 9}},
    "optional": {
        "type": "object",
        "properties": {name: {"type": "integer", "minimum": 0, "maximum": 9} for name in "abcdef"},
        "required": ["d"],
        "additionalProperties": False,
    },
    "anyOf": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"},
                        {"type": "array", "items": {"const": 1}, "maxItems": 3}]},
    "oneOf": {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": k}, k: {"type": "boolean"}},
         "required": ["kind", k], "additionalProperties": False} for k in ("cat", "dog")]},
    "ref": {
        "$defs": {"node": {
            "type": "object",
            "properties": {"value": {"type": "string", "maxLength": 3},
                           "next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}},
            "required": ["value", "next"], "additionalProperties": False},
            "leaf": {"enum": ["x", "y"]}},
        "type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2,
    },
    "unicode": {
        "type": "object",
        "properties": {"名前\"\\": {"type": "string", "pattern": "^[぀-ゟ]{1,4}$"},
                       "<|eot|>": {"enum": ["<|eot|>", "\n\t\"", "🙂"]}},
        "required": ["名前\"\\", "<|eot|>"],
        "additionalProperties": False,
    },
    "format": {"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "boolean"},
            "maxProperties": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def prompt(maverick_mini: Path) -> Prompt:
    return Prompt.from_folder(maverick_mini)


def sampled(held: Constraint, prompt: Prompt, temperature: float, most: int = 3000) -> list[int]:
    """The ids of one answer by a model that says anything, with the stop token."""
    size = prompt.config.text.vocab_size
    ids: list[int] = []
    while len(ids) < most:
        logits = held.mask(mx.random.normal((1, size)) * 4)
        ids.append(int(mx.random.categorical(logits / temperature)[0].item()))
        held.accept(ids[-1])
        if ids[-1] in prompt.stop_ids:
            return ids
    raise AssertionError(f"no end after {most} tokens: {prompt.decode(ids)[:200]!r}")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_sampled_answer_is_valid(prompt: Prompt, name: str) -> None:
    schema = JsonSchema.parse(json.dumps(SCHEMAS[name]))
    validator = jsonschema.Draft202012Validator(
        SCHEMAS[name], format_checker=jsonschema.FormatChecker()
    )
    special = set(prompt.special.values())
    mx.random.seed(7)
    seen = set()
    for n in range(30):
        ids = sampled(constraint(schema, prompt), prompt, temperature=(1.0, 1.5, 8.0)[n % 3])
        assert special.isdisjoint(ids[:-1])
        text = prompt.decode(ids[:-1])
        validator.validate(json.loads(text))
        seen.add(text)
    assert len(seen) > 1  # it is not one answer only


def test_an_answer_may_end_with_any_stop_token_but_not_early(prompt: Prompt) -> None:
    schema = JsonSchema.parse({"const": {"a": [1, "two"]}})
    wanted = '{"a":[1,"two"]}'
    size = prompt.config.text.vocab_size
    endings = set()
    mx.random.seed(3)
    for _ in range(30):
        held = constraint(schema, prompt)
        said: list[int] = []
        while "".join(prompt.decode(said).split()) != wanted:
            allowed = held.mask(mx.random.normal((1, size)))
            assert not held.finished
            assert mx.all(allowed[0, mx.array(sorted(prompt.stop_ids))] == -mx.inf)
            said.append(int(mx.argmax(allowed[0]).item()))
            held.accept(said[-1])
        assert held.finished
        last = held.mask(mx.random.normal((1, size)))
        open_ids = [i for i, x in enumerate(last[0].tolist()) if x > -mx.inf]
        assert set(open_ids) == prompt.stop_ids
        endings.add(int(mx.argmax(last[0]).item()))
        held.accept(max(endings))
        assert held.finished
    assert endings == prompt.stop_ids


def test_a_number_may_end_or_go_on(prompt: Prompt) -> None:
    held = constraint(JsonSchema.parse({"type": "integer"}), prompt)
    [four] = prompt.tokenizer.encode("4", add_special_tokens=False)
    [quote] = prompt.tokenizer.encode('"', add_special_tokens=False)
    held.accept(four)
    assert not held.finished
    allowed = held.mask(mx.zeros((1, prompt.config.text.vocab_size)))[0]
    assert allowed[four].item() == 0
    assert all(allowed[id].item() == 0 for id in prompt.stop_ids)
    assert allowed[quote].item() == -mx.inf
    with pytest.raises(UsageError, match="cannot come"):
        held.accept(quote)
    held.accept(max(prompt.stop_ids))
    assert held.finished
    with pytest.raises(UsageError, match="cannot come"):
        held.accept(four)


def test_a_stop_token_is_refused_before_the_end(prompt: Prompt) -> None:
    held = constraint(JsonSchema.parse({"type": "boolean"}), prompt)
    for id in prompt.stop_ids:
        with pytest.raises(UsageError, match="cannot come"):
            held.accept(id)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_mask_changes_only_what_is_forbidden(prompt: Prompt, dtype: mx.Dtype) -> None:
    """Also where the model's vocabulary is larger than the tokenizer's, as padding makes it."""
    held = constraint(JsonSchema.parse({"type": "string"}), prompt)
    logits = mx.random.normal((1, prompt.config.text.vocab_size + 77)).astype(dtype)
    masked = held.mask(logits)
    assert masked.dtype == dtype
    assert masked.shape == logits.shape
    kept = masked > -mx.inf
    assert mx.all(mx.where(kept, masked == logits, True))
    said = {prompt.decode([i]) for i, k in enumerate(kept[0].tolist()) if k}
    assert said
    assert all(text.startswith('"') for text in said)


def test_stop_ids_that_are_ordinary_tokens_or_none_at_all(copy: Path) -> None:
    """Older generation_configs name odd ids: an ordinary token that stops a reply cannot be
    inside an answer, and one outside the vocabulary does not matter."""
    [seven] = Prompt.from_folder(copy).tokenizer.encode("7", add_special_tokens=False)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [seven, 10**6, -1]}))
    prompt = Prompt.from_folder(copy)
    assert {seven, 10**6, -1} < prompt.stop_ids
    schema = JsonSchema.parse({"type": "integer", "minimum": 0, "maximum": 99})
    for _ in range(20):
        ids = sampled(constraint(schema, prompt), prompt, 1.0)
        assert 0 <= int(prompt.decode(ids[:-1])) <= 99


def test_the_vocabulary_is_read_once(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = JsonSchema.parse({})
    constraint(schema, prompt)
    monkeypatch.setattr("mlx_maverick.grammar.token_bytes", None)
    assert not constraint(schema, prompt).finished


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ('{"type": "object",\n "properties": }', "line 2, column 16"),
        ("", "not JSON"),
        ("[1]", "not an object"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff{}", "UTF-8"),
        (5, "not an object"),
        ({"const": float("nan")}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        ({"type": "strin"}, "strin"),
        ({"properties": {"a": {"not": {"type": "string"}}}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"if": {}, "then": {}}, '"if", "then"'),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"enum": []}, "nsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"x-guidance": {"lenient": True}, "not": {}}, '"not"'),
        ({"type": "object", "minProperties": 3, "required": ["a"]}, "minProperties 3"),
    ],
)
def test_what_cannot_be_enforced_is_refused(schema: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        JsonSchema.parse(schema)
    assert "\n" not in str(error.value)


def test_names_of_keywords_may_be_data() -> None:
    assert JsonSchema.parse({"enum": [{"minProperties": 5}]})
    assert JsonSchema.parse({"properties": {"minProperties": {"type": "integer"}}})


def test_a_schema_that_asks_too_much_says_so(
    prompt: Prompt, capfd: pytest.CaptureFixture[str]
) -> None:
    lengths = [{"type": "array", "minItems": n, "items": {}} for n in range(3000)]
    held = constraint(JsonSchema.parse({"anyOf": lengths}), prompt)
    with pytest.raises(UsageError, match="too much"):
        sampled(held, prompt, 1.0)
    assert capfd.readouterr() == ("", "")  # the library prints nothing


@pytest.mark.parametrize("text", ["<|eot|>", "<|header_start|>x", "a<|image|>", "<|patch|>"])
def test_special_tokens_in_a_schema_are_spelled_out(prompt: Prompt, text: str) -> None:
    """Where only one text is possible, llguidance asks the tokenizer for it."""
    held = constraint(JsonSchema.parse({"type": "object", "properties": {text: {"const": text}},
                                        "required": [text]}), prompt)  # fmt: skip
    ids = sampled(held, prompt, 1.0)[:-1]
    assert set(prompt.special.values()).isdisjoint(ids)
    assert json.loads(prompt.decode(ids))[text] == text


def test_white_space_ends(prompt: Prompt) -> None:
    """A model that likes spaces cannot go on with them for ever."""
    held = constraint(JsonSchema.parse({"type": "array", "items": {"const": 1}}), prompt)
    spaces = {id for id, text in enumerate(token_bytes(prompt.tokenizer)) if not text.strip()}
    spaces -= set(prompt.special.values())
    size = prompt.config.text.vocab_size
    said = 0
    for _ in range(200):
        allowed = held.mask(mx.zeros((1, size)))[0].tolist()
        blank = [id for id in spaces if allowed[id] == 0]
        if not blank and said:
            break
        held.accept(min(blank) if blank else next(i for i, x in enumerate(allowed) if x == 0))
        said += 1
    assert 2 < said < 100


def test_what_the_tokenizer_cannot_write_is_an_error(copy: Path) -> None:
    """Here '7' stops a reply, so no answer can hold one."""
    [seven] = Prompt.from_folder(copy).tokenizer.encode("7", add_special_tokens=False)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": seven}))
    prompt = Prompt.from_folder(copy)
    with pytest.raises(UsageError, match="cannot write"):
        sampled(constraint(JsonSchema.parse({"const": 7}), prompt), prompt, 1.0)


def test_a_vocabulary_is_freed_with_its_prompt(maverick_mini: Path) -> None:
    """A worker loads one model after the other."""
    prompt = Prompt.from_folder(maverick_mini)
    state = constraint(JsonSchema.parse({"type": "integer", "maximum": 9}), prompt)
    state.mask(mx.zeros((1, 1024)))
    watched = weakref.ref(prompt)
    del prompt, state
    gc.collect()
    assert watched() is None
