"""Replies that go back into the prompt as the very tokens that were sampled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.errors import UsageError
from mlx_maverick.prompt import Prompt
from mlx_maverick.textstream import TextStream
from mlx_maverick.tools.parse import parse

ASK = {"role": "user", "content": "Say something"}


@pytest.fixture(scope="module")
def prompt(maverick_mini: Path) -> Prompt:
    return Prompt.from_folder(maverick_mini)


def spelled(prompt: Prompt, text: str) -> list[int]:
    """The same text, a token for each byte, as no tokenizer writes it."""
    return [id for c in text.encode() for id in prompt.tokenizer.convert_tokens_to_ids([byte(c)])]


def byte(value: int) -> str:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return chr(value) if value in printable else chr(0x100 + others.index(value))


def reply(text: str, ids: Sequence[int], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "token_ids": ids, **more}


def follows(prompt: Prompt, first: list[Any], ids: list[int], then: list[Any], tools: Any) -> bool:
    """Whether the next prompt begins with the last one and what was sampled after it, so
    that its KV cache is of use up to there."""
    known = prompt.encode(first, tools).ids + ids
    return prompt.encode([*first, *then], tools).ids[: len(known)] == known


@pytest.mark.parametrize(
    "text", ["Hello there", "  leading", "trailing \n\n", "\n\nlines", "Ünïcode 🙂", "<|eot|>"]
)
def test_the_cache_is_kept_whatever_the_tokens(prompt: Prompt, text: str) -> None:
    ids = spelled(prompt, text)
    assert prompt.decode(ids) == text
    assert ids != prompt.plain_ids(text)
    assert follows(prompt, [ASK], ids, [reply(text, ids), ASK], ())
    assert not follows(prompt, [ASK], ids, [{"role": "assistant", "content": text}, ASK], ())
    after = prompt.encode([ASK, reply(text, ids), ASK]).ids
    ended = len(prompt.encode([ASK]).ids) + len(ids)
    assert after[ended] == prompt.special["<|eot|>"]


@settings(max_examples=50)
@given(data=st.data())
def test_any_sampled_reply_is_kept(prompt: Prompt, data: st.DataObject) -> None:
    """Several turns of tokens as a model without any sense samples them."""
    pictures = {prompt.special["<|image|>"], prompt.config.patch_token_id}
    size = len(prompt.tokenizer)
    sampled = st.integers(0, size - 1).filter(lambda i: i not in prompt.stop_ids | pictures)
    messages: list[Any] = [ASK]
    for ids in data.draw(st.lists(st.lists(sampled, max_size=12), min_size=1, max_size=3)):
        stream = TextStream(prompt.detokenizer())
        text = "".join([*map(stream.add, ids), stream.finish()])
        then = [reply(text, ids), ASK]
        assert follows(prompt, messages, ids, then, ())
        messages += then


def test_other_text_counts_more_than_ids(prompt: Prompt) -> None:
    """Somebody edited the reply."""
    ids = spelled(prompt, "Hello there")
    plain = prompt.encode([ASK, {"role": "assistant", "content": "Hello"}, ASK]).ids
    assert prompt.encode([ASK, reply("Hello", ids), ASK]).ids == plain
    assert prompt.encode([ASK, reply("Hello", []), ASK]).ids == plain


@pytest.mark.parametrize(
    "token", ["<|eot|>", "<|eom|>", "<|end_of_text|>", "<|image|>", "<|patch|>"]
)
def test_ids_that_no_reply_holds_are_not_taken(prompt: Prompt, token: str) -> None:
    text = f"a{token}b"
    ids = [*spelled(prompt, "a"), prompt.special[token], *spelled(prompt, "b")]
    assert prompt.decode(ids) == text
    encoded = prompt.encode([ASK, reply(text, ids), ASK]).ids
    assert encoded == prompt.encode([ASK, {"role": "assistant", "content": text}, ASK]).ids


CALLS = [
    "<|python_start|>[f(a=1), g()]<|python_end|>",
    '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
    "One moment.\n<|python_start|>[f(a=1),g()]",
]


@pytest.mark.parametrize("text", CALLS)
def test_tool_calls_are_kept(prompt: Prompt, text: str) -> None:
    """The template would write them in another notation. The message's text may be the whole
    reply or what is left of it without the calls."""
    ids: list[int] = []
    for part in text.replace("<|", "\0<|").replace("|>", "|>\0").split("\0"):
        ids += [prompt.special[part]] if part in prompt.special else spelled(prompt, part)
    assert prompt.decode(ids) == text
    tools = [{"name": "f"}, {"name": "g"}]
    parsed = parse(text, ["f", "g"])
    calls = [call.as_openai() for call in parsed.calls]
    assert len(calls) == 2
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "1"} for c in calls]
    for content in (parsed.text, text):
        said = reply(content, ids, tool_calls=calls)
        assert follows(prompt, [ASK], ids, [said, *results], tools)
    # A call that was changed, left out or added.
    other = [{**calls[0], "function": {"name": "f", "arguments": {"a": 2}}}, calls[1]]
    for wrong in (other, calls[:1], [*calls, calls[0]]):
        said = reply(parsed.text, ids, tool_calls=wrong)
        results = [{"role": "tool", "content": "1"} for _ in wrong]
        assert not follows(prompt, [ASK], ids, [said, *results], tools)


@pytest.mark.parametrize("ids", [5, "abc", [1.5], [True], [-1], [10**9], ["a"]])
def test_what_are_no_ids_is_refused(prompt: Prompt, ids: Any) -> None:
    with pytest.raises(UsageError, match="token_ids"):
        prompt.encode([ASK, reply("x", ids), ASK])
    with pytest.raises(UsageError, match="token_ids"):
        prompt.encode([{**ASK, "token_ids": [1]}])


def test_a_template_that_drops_replies_is_caught(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[-1]['content'] }}")
    prompt = Prompt.from_folder(copy)
    ids = spelled(prompt, "Hi")
    with pytest.raises(UsageError, match="every reply"):
        prompt.encode([ASK, reply("Hi", ids), ASK])
