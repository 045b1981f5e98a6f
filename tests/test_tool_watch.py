"""Tool calls in a reply as it arrives, however it is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.tool_watch import TAG, Watch
from mlx_maverick.tools import parse

PARTS = st.sampled_from(
    ["Hello", " ", "\n", "f(", "a=1", ")", "[", "]", "{", "}", TAG, "[f(a=1)]", '{"name": "f", ']
)


def watch(text: str, cuts: list[int]) -> tuple[str, str, int]:
    """What is shown on the way, what at the end, and the number of calls."""
    watch, shown, at = Watch(["f"]), "", 0
    for end in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        shown += watch.add(text[at:end])
        at = end
    parsed = watch.finish("")
    return shown, parsed.text, len(parsed.calls)


@given(parts=st.lists(PARTS, max_size=12), cuts=st.lists(st.integers(0, 200), max_size=20))
def test_nothing_is_lost_or_shown_twice(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    shown, rest, calls = watch(text, cuts)
    assert calls == len(parse(text, ["f"]).calls)
    if not calls:
        assert shown + rest == text


@pytest.mark.parametrize("call", [TAG + "[f(a=1)]", "\n[f(a=1)]", "\n  f(", '\n{"name": "f"'])
def test_a_call_after_a_long_line_is_held_back_letter_by_letter(call: str) -> None:
    text = "It may be raining. " * 50 + call
    shown, _, _ = watch(text, list(range(len(text))))
    assert text.startswith(shown)
    # Of a tag in the middle of a line all but its last letter may be shown; nothing after it.
    assert len(text) - len(call) - 1 <= len(shown.rstrip()) < len(text) - len(call) + len(TAG)
    assert "f" not in shown[len(text) - len(call) :]
