"""A reply that was cut, gone on with: the same tokens and text as without the cut."""

from typing import Any

import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.events import Token, collect
from mlx_maverick.maverick import Maverick
from mlx_maverick.prompt import Prompt

ASK: dict[str, Any] = {"role": "user", "content": "Why is the sky blue?"}
MOST = 24


@pytest.fixture(scope="module")
def prompt(maverick: Maverick) -> Prompt:
    return maverick.prompt


def begun(text: str, ids: list[int] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "partial": True}
    return message if ids is None else {**message, "token_ids": ids}


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 13, 23])
def test_wherever_it_is_cut(maverick: Maverick, cut: int) -> None:
    """Random weights cut characters in two as well: what is missing of one comes later."""
    whole = maverick.generate([ASK], max_tokens=MOST, temperature=0)
    first = maverick.generate([ASK], max_tokens=cut, temperature=0)
    rest = maverick.generate(
        [ASK, begun(first.text, first.ids)], max_tokens=MOST - cut, temperature=0
    )
    assert first.ids + rest.ids == whole.ids
    assert maverick.prompt.decode(first.ids).rstrip("\ufffd") + rest.text == whole.text


def test_only_what_is_new_is_computed(maverick: Maverick) -> None:
    session = maverick.session()
    first = collect(maverick.stream([ASK], session=session, max_tokens=9, temperature=0))
    messages = [ASK, begun(first.text, first.ids)]
    rest = collect(maverick.stream(messages, session=session, max_tokens=5, temperature=0))
    assert rest.stats.prompt_tokens - rest.stats.cached_tokens == 1


def test_text_alone_can_be_gone_on_with(prompt: Prompt) -> None:
    text = "Because of <|eot|> the"
    encoded = prompt.encode([ASK, begun(text)])
    assert encoded.begun == prompt.plain_ids(text)
    assert encoded.ids == prompt.encode([ASK]).ids + encoded.begun
    # Ids that say something else count for nothing.
    assert prompt.encode([ASK, begun(text, prompt.plain_ids("It is"))]).ids == encoded.ids


def test_nothing_is_the_beginning_of_any_reply(prompt: Prompt) -> None:
    assert prompt.encode([ASK, begun("")]).ids == prompt.encode([ASK]).ids


def test_earlier_replies_stay_as_they_were_sampled(prompt: Prompt) -> None:
    said = {"role": "assistant", "content": "Hi", "token_ids": prompt.plain_ids("Hi")}
    encoded = prompt.encode([ASK, said, ASK, begun("It")])
    assert encoded.ids[-len(encoded.begun) :] == encoded.begun == prompt.plain_ids("It")


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([ASK, begun("It"), ASK], "only the last message can be partial"),
        ([ASK, {**begun("It"), "partial": "yes"}], "not true or false"),
        ([{**ASK, "partial": True}], "a user message has partial"),
        ([ASK, {**begun("It"), "partial": False}], "mark it as partial"),
    ],
)
def test_what_is_no_beginning(prompt: Prompt, messages: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        prompt.encode(messages)


def test_what_was_not_asked_of_the_beginning(maverick: Maverick) -> None:
    with pytest.raises(UsageError, match="neither tools nor a JSON schema"):
        maverick.stream([ASK, begun("It")], json_schema={"type": "object"})


def test_tokens_say_what_is_new(maverick: Maverick) -> None:
    first = maverick.generate([ASK], max_tokens=4, temperature=0)
    events = list(maverick.stream([ASK, begun(first.text, first.ids)], max_tokens=3, temperature=0))
    assert sum(isinstance(e, Token) and e.id is not None for e in events) == 3
