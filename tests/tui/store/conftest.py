"""A store in a folder of the test's, and a clock that a test moves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_maverick.tui.store import Store

NOON = 1_763_700_000.0


class Clock:
    """One second later each time it is asked."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chats.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    with Store.open(path, clock=clock) as opened:
        yield opened


def say(store: Store, *texts: str, model: str = "folder") -> int:
    """A chat in which a person and the model say `texts` in turn."""
    chat = store.create_chat(model, None, {})
    parent = None
    for i, text in enumerate(texts):
        role = "assistant" if i % 2 else "user"
        parent = store.add_message(chat, parent, role, text, (), True)
    return chat


def titles(store: Store, query: str = "") -> list[str]:
    return [row.title for row in store.chats(query)]
