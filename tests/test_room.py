"""Memory for one conversation beside what else is loaded: refused before, never during."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick import memory
from mlx_maverick.errors import DoesNotFit
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
LONG = "word " * 750  # two tokens each


@pytest.fixture
def tight(maverick_mini: Path, monkeypatch: pytest.MonkeyPatch) -> Maverick:
    """A model on a machine that has room for one conversation of 2,048 tokens, and little
    more."""
    held = mx.get_active_memory()
    m = load(maverick_mini, context=2048)
    assert m.memory_limit > m.budget.total
    limit = held + m.budget.total + m.budget.kv // 4
    monkeypatch.setattr(m, "memory_limit", limit)
    return m


def test_one_conversation_has_room(tight: Maverick) -> None:
    assert tight.generate(LONG, **GREEDY).stats.new_tokens
    assert tight.generate(LONG, **GREEDY).stats.new_tokens  # the first one's cache is gone


def test_a_second_one_is_refused_with_the_numbers(tight: Maverick) -> None:
    first, second = tight.session(), tight.session()
    wanted = tight.generate(LONG, session=first, **GREEDY).text
    with pytest.raises(DoesNotFit, match=r"1,5\d\d tokens needs .* more.* other conversations"):
        tight.generate(LONG, session=second, **GREEDY)
    # The first one goes on, and a short one has room.
    assert tight.generate(LONG, session=first, **GREEDY).text == wanted
    assert tight.generate("Hi", session=second, **GREEDY).stats.new_tokens
    del first
    assert tight.generate(LONG, session=second, **GREEDY).text == wanted


def test_what_can_be_made_again_gives_way(tight: Maverick) -> None:
    first = tight.session()
    tight.generate(LONG, session=first, **GREEDY)
    kept = mx.zeros((tight.budget.kv // 8,), dtype=mx.float32)  # half of a conversation
    mx.eval(kept)
    tight.pictures["old"] = kept
    del kept
    assert tight.generate("Hi", **GREEDY).stats.new_tokens
    assert "old" not in tight.pictures


def test_a_second_model_is_refused(
    maverick_mini: Path, maverick: Maverick, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, need = mx.get_active_memory(), load(maverick_mini, context=2048).budget.total
    monkeypatch.setattr(memory, "machine_limit", lambda: need + held // 2)
    with pytest.raises(DoesNotFit, match="held by what this program has loaded"):
        load(maverick_mini, context=2048)
    assert maverick.generate("Hi", **GREEDY).stats.new_tokens
