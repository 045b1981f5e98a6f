"""Text as it arrives: whole characters, stop strings wherever they are cut."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_maverick.prompt import Prompt
from mlx_maverick.textstream import TextStream


@pytest.fixture(scope="module")
def prompt(maverick_mini: Path) -> Prompt:
    return Prompt.from_folder(maverick_mini)


class Letters:
    """A detokenizer for which every id is its character."""

    def __init__(self) -> None:
        self.last_segment = ""

    def add_token(self, id: int) -> None:
        self.last_segment = chr(id)

    def finalize(self) -> None:
        self.last_segment = ""


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    stream = TextStream(Letters(), stop)
    out = [stream.add(ord(c)) for c in text]
    return [*out, stream.finish()], stream.stopped


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert pieces("abc") == (["a", "b", "c", ""], False)


def test_a_stop_string_over_several_tokens_is_never_shown() -> None:
    assert pieces("Hello END more", "END") == ([*"Hello ", *[""] * 9], True)


def test_what_only_began_like_a_stop_string_is_shown() -> None:
    out, stopped = pieces("a ENx EN", "END")
    assert "".join(out) == "a ENx EN"
    assert not stopped


def test_the_earliest_of_several_ends_the_text() -> None:
    assert "".join(pieces("one two three", "three", "two")[0]) == "one "


@given(text=st.text("ab", max_size=30), stop=st.lists(st.text("ab", min_size=1, max_size=4)))
def test_the_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    out, stopped = pieces(text, *stop)
    ends = [text.find(s) for s in stop if s in text]
    # Found as soon as complete: a shorter one that ends earlier may begin later.
    shown = "".join(out)
    assert text.startswith(shown)
    assert not any(s in shown for s in stop)
    assert stopped == bool(ends)
    if not stopped:
        assert shown == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30))
def test_real_tokens_give_the_text_back(prompt: Prompt, text: str) -> None:
    """Also characters of several tokens, without half of one ever appearing, and a space at
    the beginning. (mlx-lm 0.32's detokenizer writes the byte 0 as another character.)"""
    ids = prompt.plain_ids(text)
    stream = TextStream(prompt.detokenizer())
    out = [stream.add(id) for id in ids]
    assert "".join([*out, stream.finish()]) == prompt.tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in out)


def test_an_unfinished_character_appears_at_the_end(prompt: Prompt) -> None:
    ids = prompt.plain_ids("🙂")
    assert len(ids) > 1
    stream = TextStream(prompt.detokenizer())
    assert [stream.add(id) for id in ids[:-1]] == [""] * (len(ids) - 1)
    assert "\ufffd" in stream.finish()
