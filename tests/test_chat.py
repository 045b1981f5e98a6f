"""A conversation in Python: messages, cache, cut answers, taking back."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.errors import NotFound, UsageError
from mlx_maverick.events import Token
from mlx_maverick.maverick import Maverick

from .golden import REFERENCE

PICTURE = REFERENCE / "maverick-mini/golden/images/03_200x130_RGB.png"


def roles(maverick_chat: list[dict[str, object]]) -> list[object]:
    return [m["role"] for m in maverick_chat]


def test_turns_share_the_cache_and_equal_a_fresh_run(maverick: Maverick) -> None:
    chat = maverick.chat(system="Be brief.", max_tokens=12, temperature=0)
    first = chat.send("Hi")
    second = chat.send("What is this?", images=[PICTURE])
    third = chat.send("And its colour?")
    # At worst the chunk of 32 in which an answer began is computed again.
    assert second.stats.cached_tokens >= first.stats.prompt_tokens // 32 * 32 > 0
    assert third.stats.cached_tokens >= second.stats.prompt_tokens // 32 * 32
    assert roles(chat.messages) == ["system", *["user", "assistant"] * 3]
    fresh = maverick.generate(chat.messages[:-1], max_tokens=12, temperature=0)
    assert fresh.text == third.text


def test_options_of_one_turn(maverick: Maverick) -> None:
    chat = maverick.chat(max_tokens=12, temperature=0)
    usual = chat.send("Name a colour")
    assert len(chat.regenerate(max_tokens=3).ids) == 3
    colour = {"enum": ["blue", "red"]}
    assert chat.edit("Name a colour", json_schema=colour, max_tokens=40).text in ('"blue"', '"red"')
    seven = chat.regenerate(sampler=lambda logprobs: mx.array([7]), logprobs=0)
    assert set(seven.ids) == {7}
    assert seven.tokens[0].logprob is not None
    assert chat.regenerate().ids == usual.ids  # what was said of one turn is forgotten
    for option in ("session", "sampling", "tools", "temprature"):
        with pytest.raises(UsageError, match=f"unknown option '{option}'"):
            chat.send("Hi", **{option: None})  # type: ignore[arg-type]
    assert roles(chat.messages) == ["user", "assistant"]


def test_a_cut_answer_is_kept(maverick: Maverick) -> None:
    chat = maverick.chat(temperature=0, max_tokens=30)
    said = ""
    events = chat.stream("Tell me a story")
    for event in events:
        if isinstance(event, Token):
            said += event.text
            if len(said) > 10:
                break
    assert chat.messages[-1]["role"] == "assistant"
    assert chat.messages[-1]["content"] == said
    assert chat.send("Go on").stats.cached_tokens > 0


def test_a_refused_message_changes_nothing(maverick: Maverick) -> None:
    chat = maverick.chat(max_tokens=5, temperature=0)
    chat.send("Hi")
    before = list(chat.messages)
    with pytest.raises(NotFound):
        chat.send("Look", images=[Path("no-such-file.png")])
    with pytest.raises(UsageError):
        chat.send("word " * 5000)
    assert chat.messages == before
    assert chat.send("Still there?").text is not None


def test_taking_turns_back(maverick: Maverick) -> None:
    chat = maverick.chat(system="Be brief.", max_tokens=8, temperature=0)
    chat.send("One")
    second = chat.send("Two")
    chat.rewind()
    assert roles(chat.messages) == ["system", "user", "assistant"]
    assert chat.send("Two").text == second.text
    with pytest.raises(UsageError, match="cannot take back 3 turns of 2"):
        chat.rewind(3)
    chat.rewind(2)
    assert roles(chat.messages) == ["system"]
