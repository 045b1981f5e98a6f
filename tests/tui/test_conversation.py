"""The tree of messages."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from mlx_maverick.tui.conversation import Conversation, Draft, Node, Picture

from .desk import Desk


def texts(conversation: Conversation) -> list[str]:
    return [node.text for node in conversation.path()]


class AnyConversation(RuleBasedStateMachine):
    """Messages that are added, shown and taken back in any order."""

    present = Bundle("present")

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation()
        self.parents: dict[Node, Node | None] = {}  # of those that are there

    @rule(target=present)
    def first(self) -> Node:
        return self._add(None)

    @rule(target=present, parent=present)
    def below(self, parent: Node) -> Any:
        return self._add(parent) if parent in self.parents else multiple()

    def _add(self, parent: Node | None) -> Node:
        node = Node("user", str(len(self.parents)))
        assert self.conversation.add(node, parent) is node
        self.parents[node] = parent
        assert self.conversation.leaf is node
        return node

    @rule(node=present)
    def show(self, node: Node) -> None:
        if node in self.parents:
            self.conversation.show(node)
            assert node in self.conversation.path()

    @rule(node=present, by=st.integers(-2, 2))
    def turn(self, node: Node, by: int) -> None:
        if node not in self.parents:
            return
        at, count = self.conversation.version(node)
        before = self.conversation.path()
        other = self.conversation.turn(node, by)
        assert (other is not None) == (1 <= at + by <= count)
        if other is None:
            assert self.conversation.path() == before
        else:
            assert self.conversation.version(other) == (at + by, count)
            assert self.conversation.parent(other) is self.parents[node]
            assert other in self.conversation.path()

    @rule(node=present)
    def remove(self, node: Node) -> None:
        if node not in self.parents or node in self.parents.values():
            with pytest.raises(ValueError):
                self.conversation.remove(node)
            return
        self.conversation.remove(node)
        del self.parents[node]

    @rule(node=present)
    def add_another_and_take_it_back(self, node: Node) -> None:
        """Nothing came of it: what was shown is shown."""
        if node not in self.parents:
            return
        self.conversation.show(node)
        before = self.conversation.path()
        self.conversation.remove(self.conversation.add(Node("user"), self.parents[node]))
        assert self.conversation.path() == before

    @invariant()
    def every_one_is_there_once_after_its_parent(self) -> None:
        nodes = list(self.conversation.nodes())
        assert len(nodes) == len(set(nodes))
        assert set(nodes) == set(self.parents)
        for node, parent in self.parents.items():
            assert self.conversation.parent(node) is parent
            assert parent is None or nodes.index(parent) < nodes.index(node)

    @invariant()
    def the_path_goes_from_a_first_one_to_a_last_one(self) -> None:
        path = self.conversation.path()
        assert bool(path) == bool(self.conversation) == bool(self.parents)
        for node, above in zip(path, [None, *path], strict=False):
            assert self.parents[node] is above
        if path:
            assert self.conversation.leaf is path[-1]
            assert path[-1] not in self.parents.values()
            asked = self.conversation.messages(path[-1])
            assert [m["content"] for m in asked] == texts(self.conversation)
        else:
            assert self.conversation.leaf is None

    @invariant()
    def versions_are_counted_from_one(self) -> None:
        for node, parent in self.parents.items():
            at, count = self.conversation.version(node)
            assert count == list(self.parents.values()).count(parent)
            assert 1 <= at <= count


TestAnyConversation = AnyConversation.TestCase


def test_every_branch_is_shown_as_it_was_left() -> None:
    conversation = Conversation()
    one = conversation.add(Node("user", "one"), None)
    reply = conversation.add(Node("assistant", "1"), one)
    conversation.add(Node("user", "two"), reply)
    other = conversation.add(Node("assistant", "I"), one)
    assert texts(conversation) == ["one", "I"]
    conversation.turn(other, -1)
    assert texts(conversation) == ["one", "1", "two"]


def test_nothing_came_of_another_version_of_an_older_one() -> None:
    """The one that was shown is shown again, and not the newest."""
    desk = Desk().ready()
    desk.ask("one", "1")
    for reply in ("2", "3"):
        desk.controller.regenerate()
        desk.answer(reply)
    path = desk.controller.conversation.path
    desk.controller.turn(path()[-1], -2)
    assert path()[-1].text == "1"
    desk.controller.regenerate()
    desk.engine.refuse("no room")
    desk.drain()
    assert path()[-1].text == "1"


@given(st.text(), st.text())
def test_drafts_below_each_other(one: str, two: str) -> None:
    both = Draft(one) + Draft(two)
    assert both.text in (f"{one}\n{two}", one, two)
    assert bool(both) == bool(one.strip() or two.strip())


def test_what_the_model_is_given(tmp_path: Any) -> None:
    picture = Picture(tmp_path / "cat.png", 3, 4, 5)
    conversation = Conversation("Be brief.")
    question = conversation.add(Node("user", "What?", (picture,)), None)
    alone = conversation.add(Node("user", "", (picture,)), None)
    reply = conversation.add(Node("assistant", "A cat", ids=[1, 2]), question)
    image = {"type": "image", "image": str(picture.path)}
    system = {"role": "system", "content": "Be brief."}
    assert conversation.messages(alone) == [system, {"role": "user", "content": [image]}]
    asked, given_ = conversation.messages(reply)[1:]
    assert asked["content"] == [image, {"type": "text", "text": "What?"}]
    assert given_ == {
        "role": "assistant", "content": "A cat", "token_ids": [1, 2], "partial": True,
    }  # fmt: skip
    assert "partial" not in conversation.messages(question)[-1]
