"""What was sent before, with the arrow keys."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.tui.history import History

TEXTS = st.lists(st.sampled_from(["", " \n", "a", "b", "c"]))


def walk(history: History, by: int, shown: str) -> list[str]:
    """All that is seen on the way to the end."""
    seen = []
    while (text := history.step(by, shown)) is not None:
        seen.append(text)
        shown = text
    return seen


def test_up_and_down() -> None:
    history = History(["one", "two"])
    assert history.step(-1, "") == "two"
    assert history.step(-1, "two") == "one"
    assert history.step(-1, "one") is None
    assert history.step(1, "one") == "two"
    assert history.step(1, "two") == ""
    assert history.step(1, "") is None


def test_what_was_being_written_is_not_lost() -> None:
    history = History(["one", "two"])
    assert walk(history, -1, "half a") == ["two", "one"]
    assert walk(history, 1, "one") == ["two", "half a"]


def test_a_changed_one_is_a_new_one() -> None:
    history = History(["one", "two"])
    assert walk(history, -1, "half a") == ["two", "one"]
    assert history.step(-1, "one, changed") == "two"
    assert history.step(1, "two") == "one, changed"
    assert History().step(-1, "alone") is None


def test_after_sending_one_begins_at_the_end() -> None:
    history = History(["one", "two"])
    walk(history, -1, "")
    history.add("one")
    assert walk(history, -1, "") == ["one", "two", "one"]


@given(TEXTS, st.text(max_size=3))
def test_all_that_was_sent_and_no_more(texts: list[str], present: str) -> None:
    """Blank ones are left out, and one that was sent again at once."""
    sent = [text for text in texts if text.strip()]
    sent = [text for at, text in enumerate(sent) if not at or text != sent[at - 1]]
    history = History(texts)
    up = walk(history, -1, present)
    assert up == sent[::-1]
    assert walk(history, 1, up[-1] if up else present) == [*up[-2::-1], present][: len(up)]


@given(TEXTS, st.lists(st.sampled_from([-1, 1])))
def test_any_walk_stays_in_the_list(texts: list[str], steps: list[int]) -> None:
    history = History(texts)
    length = len(walk(History(texts), -1, "now"))
    shown, at = "now", length
    for by in steps:
        text = history.step(by, shown)
        assert (text is None) == (not 0 <= at + by <= length)
        if text is not None:
            shown, at = text, at + by
            assert (at == length) == (text == "now")
