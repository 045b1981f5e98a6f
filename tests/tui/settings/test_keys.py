"""A person's own keys: what is taken, what is refused, and that Textual takes them."""

import pytest
from textual.app import App
from textual.binding import Binding

from mlx_maverick.errors import UsageError
from mlx_maverick.tui.settings.keys import defaults, described, keymap

BINDINGS = [
    Binding("enter", "send", "Send", id="send"),
    Binding("ctrl+n", "note('new')", "New chat", id="new_chat"),
    Binding("ctrl+l", "note('chats')", "Chats", id="chats"),
    Binding("shift+enter,ctrl+j", "note('newline')", "New line", id="newline"),
    Binding("f1", "help", "Help"),
]
KNOWN = described(BINDINGS)
BUILT_IN = defaults(BINDINGS)


def test_bindings_tell_what_can_be_changed() -> None:
    assert KNOWN == {
        "send": "Send",
        "new_chat": "New chat",
        "chats": "Chats",
        "newline": "New line",
    }
    assert BUILT_IN["newline"] == "shift+enter,ctrl+j"


@pytest.mark.parametrize(("written", "key"), [
    ("ctrl+y", "ctrl+y"), (" Ctrl + Y ", "ctrl+y"), ("control+Y", "ctrl+y"), ("F5", "f5"),
    ("shift+ctrl+p", "ctrl+shift+p"), ("cmd+k", "super+k"), ("opt+enter", "alt+enter"),
    ("esc", "escape"), ("pgup", "pageup"), ("ctrl+/", "ctrl+slash"), ("ctrl+comma", "ctrl+comma"),
    ("f5, f6,f5", "f5,f6"), ("alt+ß", "alt+ß"), ("ctrl+space,f5", ""), ("delete", "delete"),
])  # fmt: skip
def test_keys_as_people_write_them(written: str, key: str) -> None:
    if key:
        assert keymap({"chats": written}, KNOWN) == {"chats": key}
    else:
        with pytest.raises(UsageError, match="send ctrl.space as ctrl.at"):
            keymap({"chats": written}, KNOWN)


@pytest.mark.parametrize("written", [
    "", "ctrl+", "+", "ctrl+foo", "strg+x", "ctrl x", "f99", "ctrl++", "f5,", "ctrl+ctrl+x",
    "<any>", "ctrl+\x1b",
])  # fmt: skip
def test_what_is_no_key_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match=r"keys\.chats: .* is no key; write one such as ctrl\+l"):
        keymap({"chats": written}, KNOWN)


@pytest.mark.parametrize("written", ["x", "X", "shift+x", "space", "slash", "ü", "?"])
def test_what_is_typed_is_no_key_of_an_action(written: str) -> None:
    with pytest.raises(UsageError, match="is typed into the message"):
        keymap({"chats": written}, KNOWN)


def test_an_unknown_action_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"keys\.chat: .*did you mean chats\?"):
        keymap({"chat": "f5"}, KNOWN)


def test_a_key_belongs_to_one_action() -> None:
    with pytest.raises(UsageError, match="f5 is also the key of new_chat .New chat."):
        keymap({"chats": "f5", "new_chat": "f6,F5"}, KNOWN)
    with pytest.raises(UsageError, match=r"keys\.chats: ctrl\+n is also the key of new_chat"):
        keymap({"chats": "ctrl+n"}, KNOWN, BUILT_IN)
    with pytest.raises(UsageError, match=r"keys\.chats: tab is also the key of new_chat"):
        keymap({"chats": "tab"}, KNOWN, {"new_chat": "ctrl+i"})
    with pytest.raises(UsageError, match="send ctrl.m as enter"):
        keymap({"chats": "ctrl+m"}, KNOWN, BUILT_IN)
    swapped = {"chats": "ctrl+n", "new_chat": "ctrl+l"}
    assert keymap(swapped, KNOWN, BUILT_IN) == swapped
    # What is built in is its author's business.
    assert keymap({}, KNOWN, {"send": "f5", "chats": "f5"}) == {}


class Noting(App[None]):
    BINDINGS = BINDINGS  # type: ignore[assignment]

    def __init__(self, keys: dict[str, str]):
        super().__init__()
        self.noted: list[str] = []
        self.set_keymap(keymap(keys, KNOWN, BUILT_IN))

    def action_note(self, what: str) -> None:
        self.noted.append(what)


async def test_textual_takes_them() -> None:
    """Swapped, several for one, and as another program writes it."""
    app = Noting({"chats": "Ctrl+N", "new_chat": "ctrl+l", "newline": "f5,ctrl+/"})
    async with app.run_test() as pilot:
        await pilot.press("ctrl+n", "ctrl+l", "f5", "ctrl+slash", "ctrl+j")
    assert app.noted == ["chats", "new", "newline", "newline"]
