"""Tool calls in a reply as it arrives, in pieces of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.tools.call import ToolCall
from mlx_maverick.tools.parse import parse
from mlx_maverick.tools.watch import TAG, Watch

NAMES = ("weather", "now")


def watched(pieces: list[str]) -> tuple[list[str], str, tuple[ToolCall, ...], str | None]:
    """What was shown piece by piece, what came at the end, the calls, the problem."""
    watch = Watch(NAMES)
    shown = [watch.add(piece) for piece in pieces]
    parsed = watch.finish("")
    return shown, parsed.text, parsed.calls, parsed.problem


@pytest.mark.parametrize(
    "call",
    [
        '[weather(city="Oslo")]',
        '{"name": "weather", "parameters": {"city": "Oslo"}}',
        '<|python_start|>[weather(city="Oslo")]<|python_end|>',
        'weather(city="Oslo")',
        '<function=weather>{"city": "Oslo"}</function>',
    ],
)
@pytest.mark.parametrize("before", ["", "  ", "Let me see.\n", "Let me see.\n\n  "])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_is_never_shown(call: str, before: str, size: int) -> None:
    text = before + call
    shown, rest, calls, problem = watched([text[i : i + size] for i in range(0, len(text), size)])
    assert calls == (ToolCall("weather", {"city": "Oslo"}),)
    assert problem is None
    assert "".join([*shown, rest]).strip() == before.strip()


def test_ordinary_text_is_shown_as_it_comes() -> None:
    pieces = ["The sky", " is blue", ", [see here]", " and {there}.", "\n", "Now", " what"]
    shown, rest, calls, problem = watched(pieces)
    assert (calls, problem, rest) == ((), None, "")
    assert "".join(shown) == "".join(pieces)
    assert [bool(s) for s in shown] == [True, True, True, True, True, True, True]


def test_what_turns_out_to_be_none_is_shown_whole() -> None:
    text = 'Look:\n[weather(city="Oslo"'
    shown, rest, calls, problem = watched(list(text))
    assert calls == ()
    assert "".join(shown) == "Look:\n"
    assert "".join(shown) + rest == text
    assert problem
    assert problem.startswith("weather: ")


def test_text_after_a_call() -> None:
    shown, rest, calls, _ = watched(["Wait.\n", "[now()]", "\nThat was it."])
    assert calls == (ToolCall("now", {}),)
    assert "".join([*shown, rest]).split() == ["Wait.", "That", "was", "it."]


CALL = st.sampled_from(
    ["[now()]", '{"name": "now", "parameters": {}}', "weather(", "[wea", "{", "["]
)
WORDS = st.lists(st.one_of(st.text(max_size=6), CALL, st.just("\n")), max_size=10)


@given(pieces=WORDS)
def test_nothing_is_lost_and_calls_are_those_of_the_whole(pieces: list[str]) -> None:
    text = "".join(pieces)
    shown, rest, calls, problem = watched(pieces)
    whole = parse(text, NAMES)
    assert (calls, problem) == (whole.calls, whole.problem)
    if not calls:
        assert "".join(shown) + rest == text
    else:
        assert (
            whole.text.split() == "".join([*shown, rest]).split() or "".join(shown) + rest == text
        )


@pytest.mark.parametrize("call", [TAG + "[now()]", "\n[now()]", "\n  now(", '\n{"name": "now"'])
def test_a_call_after_a_long_line_is_held_back_letter_by_letter(call: str) -> None:
    text = "It may be raining. " * 50 + call
    shown = "".join(watched(list(text))[0])
    assert text.startswith(shown)
    # Of a tag in the middle of a line all but its last letter may be shown; nothing after it.
    assert len(text) - len(call) - 1 <= len(shown.rstrip()) < len(text) - len(call) + len(TAG)
    assert "now" not in shown[len(text) - len(call) :]
