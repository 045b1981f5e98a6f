"""Mistakes in arguments: one line that says what is wrong, wherever they are made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_maverick.chat import Chat
from mlx_maverick.errors import MaverickError, NotFound, UsageError
from mlx_maverick.grammar import JsonSchema
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.prompt import Encoded
from mlx_maverick.sampling import Sampling

PICTURE = np.zeros((30, 30, 3), np.uint8)


@pytest.fixture
def chat(maverick: Maverick) -> Chat:
    chat = maverick.chat(temperature=0, max_tokens=2)
    chat.messages += [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    return chat


def refused(call: Callable[[], Any], said: str, kind: type[MaverickError] = UsageError) -> None:
    with pytest.raises(MaverickError, match=said) as error:
        call()
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"images": 5}, "images is not a list of pictures but int"),
    ({"images": PICTURE}, "images is not a list of pictures but ndarray"),
    ({"images": [PICTURE]}, "a picture is .*, not ndarray"),
    ({"images": [5]}, "a picture is .*, not int"),
    ({"session": "file"}, "session is not a Session but str"),
    ({"sampling": {"temperature": 0}}, "sampling is not a Sampling but dict"),
    ({"sampler": 5}, "sampler is not a function but int"),
    ({"logits_processors": None}, "logits_processors is not a list but NoneType"),
    ({"logits_processors": lambda tokens, logits: logits}, "is not a list but function"),
    ({"logits_processors": [5]}, "a logits processor is not a function but int"),
    ({"should_stop": None}, "should_stop is not a function but NoneType"),
    ({"tools": None}, "tools is not a list"),
    ({"tools": {"name": "f"}}, "tools is not a list"),
    ({"json_schema": 5}, "schema is not an object"),
    ({"stop": None}, "stop is a sequence"),
    ({"stop": 5}, "stop is a sequence"),
    ({"stop": "END"}, "stop is a sequence"),
    ({"stop": [b"END"]}, "stop is a sequence"),
    ({"logit_bias": None}, "logit_bias is not a mapping"),
    ({"logit_bias": {"5": 1}}, "token id"),
    ({"seed": "1"}, "seed '1'"),
    ({"temperature": "0"}, "temperature '0'"),
    ({"temperature": None}, "temperature None"),
    ({"max_tokens": 0}, "max_tokens 0"),
    ({"max_token": 5}, "unknown option 'max_token'"),
]


@pytest.mark.parametrize(("options", "said"), OPTIONS, ids=lambda value: str(value)[:40])
def test_options(maverick: Maverick, options: dict[str, Any], said: str) -> None:
    refused(lambda: maverick.generate("Hi", **options), said)


@pytest.mark.parametrize("prompt", [None, 5, b"Hi", {"role": "user", "content": "Hi"}, [5], []])
def test_prompts(maverick: Maverick, prompt: Any) -> None:
    refused(lambda: maverick.generate(prompt), "messages is not a list")
    if prompt is not None and prompt != []:
        refused(lambda: maverick.stream_text(prompt), "a raw prompt is text")
    refused(lambda: maverick.stream_encoded(prompt), "a prompt is what encode")
    refused(lambda: maverick.count_tokens(prompt), "messages is not a list")


@pytest.mark.parametrize(
    ("ids", "said"), [([], "empty"), ([1, 10**6], "token 1000000 of a vocabulary"), ([-1], "-1")]
)
def test_ids_of_no_token(maverick: Maverick, ids: list[int], said: str) -> None:
    """They would be looked up in foreign memory."""
    refused(lambda: maverick.stream_encoded(Encoded(ids, [])), said)


@pytest.mark.parametrize("token", ["<|patch|>", "<|image|>"])
def test_a_pictures_place_in_raw_text(maverick: Maverick, token: str) -> None:
    refused(lambda: maverick.stream_text(f"a {token} b"), "cannot hold pictures")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "float16"}, "dtype 'float16' cannot be computed in"),
        ({"dtype": mx.int32}, "dtype .*int32"),
        ({"progress": 5}, "progress 5 is not a function"),
        ({"context": "5"}, "context '5'"),
        ({"context": 4096.0}, "context 4096.0"),
        ({"kv_bits": "8"}, "'8' bits"),
        ({"max_kv_size": 1.5}, "1.5 tokens"),
        ({"quantized_kv_start": 5}, "no bits"),
    ],
)
def test_options_of_load(maverick_mini: Path, options: dict[str, Any], said: str) -> None:
    refused(lambda: load(maverick_mini, **options), said)


def test_what_is_no_model(tmp_path: Path) -> None:
    for model in (None, 5, b"folder"):
        refused(lambda m=model: load(m), "not a path or a repository")
    refused(lambda: load("a" * 300), "cannot be found", NotFound)
    refused(lambda: load("a\0b"), "does not exist", NotFound)


def test_turns_of_a_chat(chat: Chat) -> None:
    before = list(chat.messages)
    for wrong in (None, 5, b"Hi", ["a"]):
        refused(lambda w=wrong: chat.send(w), "content")
        refused(lambda w=wrong: chat.edit(w), "content")
    refused(lambda: chat.send(""), "empty")
    refused(lambda: chat.send("x", images=5), "images is not a list")
    refused(lambda: chat.send("x", images="no-such.png"), "no-such.png does not exist", NotFound)
    for wrong in ("1", 0.5, None):
        refused(lambda w=wrong: chat.edit("x", w), "turn .* is not a whole number")
        refused(lambda w=wrong: chat.rewind(w), "turns .* is not a whole number")
    refused(lambda: chat.rewind(-1), "cannot take back -1 turns")
    refused(lambda: chat.send_results(1), "1 results for 0 tool calls")
    assert chat.messages == before


def test_one_picture_is_as_good_as_a_list(chat: Chat) -> None:
    reply = chat.send("What is this?", images=Image.fromarray(PICTURE))
    assert reply.stats.prompt_tokens > 144 // 16
    assert chat.messages[2]["content"][0]["type"] == "image"


def test_chats(maverick: Maverick) -> None:
    refused(lambda: maverick.chat(system=5), "system prompt is not text but int")
    refused(lambda: maverick.chat(tools=None), "tools is not a list")
    refused(lambda: maverick.chat(tools="f"), "tools is not a list")
    refused(lambda: maverick.chat(temprature=1), "unknown option 'temprature'")


def test_paths(chat: Chat, tmp_path: Path) -> None:
    m, long = chat.model, tmp_path / ("a" * 300)
    for path in (None, 5, b"x", "a\0b"):
        for call in (chat.save, m.load_chat, chat.session.save, m.load_session):
            refused(lambda c=call, p=path: c(p), "is not a path")
    refused(lambda: m.load_session(long), "cannot be looked at", NotFound)
    refused(lambda: chat.save(long), "cannot be written", MaverickError)
    chat.save(tmp_path / "chat")
    refused(lambda: m.load_chat(tmp_path / "chat", foo=1), "unknown option 'foo'")


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [1],
        b"\xff",
        {"const": float("nan")},
        {"const": object()},
        {"minProperties": 3, "required": 5},
        {"minProperties": 3, "required": None},
        "[" * 100_000,
    ],
    ids=lambda schema: str(schema)[:20],
)
def test_schemas(schema: Any) -> None:
    refused(lambda: JsonSchema.parse(schema), "JSON schema")


def test_a_schema_deeper_than_python_goes() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}
    refused(lambda: JsonSchema.parse(schema), "nested too deeply")
    while schema:  # Python itself would free it by recursion
        schema = schema.pop("not")


def test_stop_strings_that_come_one_by_one() -> None:
    assert Sampling(stop=(s for s in "ab")).stop == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (lambda tokens, logits: None, "a logits processor returned NoneType"),
        (lambda tokens, logits: logits[0], r"returned an array \[1024\]"),
        (lambda tokens, logits: logits - mx.inf, "leave nothing to choose from"),
        (lambda tokens, logits: mx.where(mx.arange(1024) == 7, mx.inf, logits), "one is inf"),
        (lambda tokens, logits: logits * float("nan"), "not a number"),
    ],
)
def test_logits_processors(maverick: Maverick, callback: Any, said: str) -> None:
    for seed in (None, 1):
        refused(lambda s=seed: maverick.generate("Hi", logits_processors=[callback], seed=s), said)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (3, "the sampler returned int"),
        (None, "the sampler returned NoneType"),
        (mx.array([1.0]), r"an array \[1\] of mlx.core.float32"),
        (mx.array([1, 2]), r"an array \[2\]"),
        (mx.array([1024]), "a token that the model does not have"),
        (mx.array([-1]), "a token that the model does not have"),
        (mx.array([2**32 + 5]), "a token that the model does not have"),
        (mx.array([2**31], dtype=mx.uint32), "a token that the model does not have"),
    ],
)
def test_samplers(maverick: Maverick, made: Any, said: str) -> None:
    """A token that there is not would be read from foreign memory."""
    refused(lambda: maverick.generate("Hi", sampler=lambda logprobs: made, max_tokens=3), said)


def test_a_samplers_array_may_have_any_shape(maverick: Maverick) -> None:
    reply = maverick.generate("Hi", sampler=lambda logprobs: mx.array([[7]]), max_tokens=3)
    assert reply.ids == [7, 7, 7]
