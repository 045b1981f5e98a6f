"""A chat as Markdown and as JSON."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.store import Store, StoreError, export

from .conftest import NOON


@pytest.fixture
def chat(store: Store) -> int:
    made = store.create_chat("/models/e4r6", "Be brief.", {"temperature": 0.6})
    picture = Picture(Path("/photos/my cat.png"), 4, 3, 12)
    asked = store.add_message(made, None, "user", "What is *this*?", (picture,), True)
    store.add_message(made, asked, "assistant", "A dog.", (), True)
    reply = store.add_message(made, asked, "assistant", "", (), False)
    store.append(reply, "A \x1b[31mcat:\n\n```py\nx = [1]", [5, 6])
    store.finish(reply, "stopped", {"new_tokens": 2})
    store.add_message(made, reply, "user", "Thanks!", (), True)
    return made


def test_markdown(store: Store, chat: int) -> None:
    when = datetime.fromtimestamp(store.load(chat).created).strftime("%Y-%m-%d %H:%M")
    assert (
        export.markdown(store.load(chat))
        == f"""\
# What is *this*?

*/models/e4r6, {when}*

## System

Be brief.

## You

![picture](<file:///photos/my%20cat.png>)

What is *this*?

## Assistant

A [31mcat:

```py
x = [1]
```

*(stopped)*

## You

Thanks!
"""
    )


@pytest.mark.parametrize(
    "reply",
    ["```\nopen", "~~~~ py\n```\n~~~\n", "```\na\n```\nand ```` more", "````\n```\n", "x\n  ```\n"],
)
def test_no_message_swallows_the_next(store: Store, reply: str) -> None:
    chat = store.create_chat("folder", None, {})
    asked = store.add_message(chat, None, "user", "Code?", (), True)
    answer = store.add_message(chat, asked, "assistant", reply, (), True)
    store.add_message(chat, answer, "user", "Thanks!", (), True)
    tokens = MarkdownIt().parse(export.markdown(store.load(chat)))
    heads = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert heads == ["Code?", "You", "Assistant", "You"]


def test_json(store: Store, chat: int) -> None:
    made = json.loads(export.as_json(store.load(chat)))
    assert (made["format"], made["version"]) == ("mlx-maverick chat", 1)
    assert (made["title"], made["model"]) == ("What is *this*?", "/models/e4r6")
    assert (made["system"], made["settings"], made["leaf"]) == (
        "Be brief.",
        {"temperature": 0.6},
        4,
    )
    assert [(m["id"], m["parent"], m["role"]) for m in made["messages"]] == [
        (1, None, "user"), (2, 1, "assistant"), (3, 1, "assistant"), (4, 3, "user"),
    ]  # fmt: skip
    first, _, reply, _ = made["messages"]
    assert first["pictures"] == [
        {"path": "/photos/my cat.png", "width": 4, "height": 3, "bytes": 12}
    ]
    assert reply["text"] == "A \x1b[31mcat:\n\n```py\nx = [1]"
    assert (reply["note"], reply["whole"]) == ("stopped", True)
    assert (reply["token_ids"], reply["stats"]) == ([5, 6], {"new_tokens": 2})
    assert 0 < datetime.fromisoformat(first["created"]).timestamp() - NOON < 10


def test_an_empty_chat(store: Store) -> None:
    chat = store.load(store.create_chat("folder", None, {}))
    assert export.markdown(chat).startswith("# Chat\n\n*folder, ")
    assert json.loads(export.as_json(chat))["messages"] == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "exports" / "here"
    paths = [export.write(folder, "My chat", ".md", text) for text in ("one", "two", "drei ö")]
    assert [p.name for p in paths] == ["My chat.md", "My chat 2.md", "My chat 3.md"]
    assert [p.read_text() for p in paths] == ["one", "two", "drei ö"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert export.write(folder, "My chat", ".json", "{}").name == "My chat.json"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("a/b\\c:d", "a-b-c-d"),
        ("...", "chat"),
        ("", "chat"),
        (".hidden", "hidden"),
        ("line\nbreak\x00\x1b[0m", "line break[0m"),
        ("語" * 200, "語" * 40),
    ],
)
def test_names_are_safe(tmp_path: Path, title: str, name: str) -> None:
    assert export.write(tmp_path, title, ".md", "x") == tmp_path / f"{name}.md"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StoreError, match="cannot be written .*export elsewhere"):
        export.write(file, "x", ".md", "x")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnicodeEncodeError):
        export.write(tmp_path, "x", ".md", "\ud83d")
    assert list(tmp_path.iterdir()) == []

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export.write(tmp_path, "x", ".md", "x")
    assert list(tmp_path.iterdir()) == []
