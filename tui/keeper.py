"""Keeps what is said, as it is said; where that fails, the chat goes on and says so.

Knows nothing of widgets and of the worker. What could not be written is written later, when
there is room again.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import MaverickError
from .conversation import Conversation, Node

if TYPE_CHECKING:
    from .store import Store, StoredChat


class Keeper:
    """One chat's way into the store. For the app's thread, but for `append`."""

    def __init__(self, store: "Store | None"):
        """Without a store nothing is kept."""
        self.store = store
        # Called when writing begins to fail, and when it works again.
        self.tell: Callable[[str], object] = lambda text: None
        self.chat: int | None = None  # its number, once something is written
        # Replies that the store has in part only: characters and tokens that are there.
        self._unfinished: dict[Node, tuple[int, int]] = {}
        self._lock = threading.Lock()  # of the four below
        self._current: int | None = None  # the row of the reply that is on its way
        self._done = (0, 0)  # characters and tokens of it that are written
        self._torn = False  # some of it could not be written
        self._behind = False  # something could not be written

    @property
    def unsaved(self) -> bool:
        """Whether something that was said would be lost if the app ended now."""
        return self.store is None or self._behind or self._torn

    @property
    def behind(self) -> bool:
        """Whether something could not be written, also once this is closed."""
        return self._behind

    def forget(self) -> None:
        """What is said next is another chat."""
        self.chat = self._current = None
        self._behind = self._torn = False
        self._unfinished.clear()

    def open(self, chat: int) -> "tuple[StoredChat, Conversation]":
        """Go on with a chat. Raises MaverickError if it cannot be read."""
        if self.store is None:
            raise MaverickError("no chats are kept, so there is none to open")
        stored = self.store.load(chat)
        self.forget()
        self.chat = chat
        return stored, tree(stored)

    def asked(
        self,
        conversation: Conversation,
        model: str,
        settings: Mapping[str, Any],
        reply: Node,
        shortened: bool = False,
    ) -> None:
        """Write everything that is not written yet; `reply` is on its way from now on. What was
        written of it is longer than it is now, if it was `shortened`."""
        if shortened:
            self.discard(reply)
        self._sync(conversation, model, settings)
        with self._lock:
            # What it goes on with may not be written, and nothing can stand behind a gap.
            self._current = None if reply in self._unfinished else reply.key
            self._done, self._torn = (len(reply.text), len(reply.ids)), False

    def append(self, text: str, ids: list[int]) -> None:
        """More of the reply that is on its way, from any thread."""
        with self._lock:
            store, key = self.store, self._current
            if store is None or key is None or self._torn:
                return
            try:
                store.append(key, text, ids)
            except MaverickError:
                self._torn = True  # `ended` writes the rest, or says that it cannot
            else:
                self._done = (self._done[0] + len(text), self._done[1] + len(ids))

    def ended(self, conversation: Conversation, reply: Node) -> None:
        """The reply stands as it is."""
        with self._lock:
            current, self._current, self._torn = self._current, None, False
        if current is not None:
            self._unfinished[reply] = self._done
        self._sync(conversation)

    def discard(self, node: Node) -> None:
        """A message that was taken back."""
        with self._lock:
            self._current = None
        key, node.key = node.key, None
        self._unfinished.pop(node, None)
        if self.store is not None and key is not None:
            with self._writing():
                self.store.discard(key)

    def shown(self, conversation: Conversation) -> None:
        """Another path is shown."""
        self._sync(conversation)

    def changed(self, model: str, system: str | None, settings: Mapping[str, Any]) -> None:
        """Other settings from now on."""
        if self.store is not None and self.chat is not None:
            with self._writing():
                self.store.change_chat(
                    self.chat, model=model, system=system, settings=dict(settings)
                )

    def close(self) -> None:
        """Nothing is written any more."""
        with self._lock:
            self._current = None
        store, self.store = self.store, None
        if store is not None:
            with suppress(MaverickError):  # what was deleted waits for another time
                store.purge()
            store.close()

    def _sync(
        self, conversation: Conversation, model: str = "", settings: Mapping[str, Any] | None = None
    ) -> None:
        """Write the messages that have no row yet, and which path is shown."""
        store = self.store
        if store is None or (self.chat is None and settings is None):
            return
        with self._writing():
            if self.chat is None:
                self.chat = store.create_chat(model, conversation.system, dict(settings or {}))
            elif settings is not None:  # it may be gone on with otherwise than it was begun
                system = conversation.system
                store.change_chat(self.chat, model=model, system=system, settings=dict(settings))
            for node in list(self._unfinished):
                self._finish(store, node)
            for node in conversation.nodes():
                if node.key is None:
                    self._write(store, self.chat, node, conversation.parent(node))
            if (leaf := conversation.leaf) is not None:
                store.change_chat(self.chat, leaf=leaf.key)
            if self._behind:
                self._behind = False
                self.tell("the chat is saved again")

    def _finish(self, store: "Store", node: Node) -> None:
        """Write what is missing of a reply."""
        chars, count = self._unfinished[node]
        if node.key is not None:
            if node.text[chars:] or node.ids[count:]:
                store.append(node.key, node.text[chars:], node.ids[count:])
                self._unfinished[node] = (len(node.text), len(node.ids))
            if node.whole:
                store.finish(node.key, node.note, node.stats)
        del self._unfinished[node]

    def _write(self, store: "Store", chat: int, node: Node, parent: Node | None) -> None:
        above = None if parent is None else parent.key
        if node.role == "user":
            node.pictures = tuple(
                replace(p, path=store.keep_picture(p.path), called=p.name) for p in node.pictures
            )
            node.key = store.add_message(chat, above, "user", node.text, node.pictures, True)
            return
        node.key = store.add_message(chat, above, "assistant", "", (), False)
        self._unfinished[node] = (0, 0)
        self._finish(store, node)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What cannot be written is said once, and tried again with the next message."""
        try:
            yield
        except MaverickError as e:
            if not self._behind:
                self._behind = True
                self.tell(f"this chat is not saved: {e}")


def tree(stored: "StoredChat") -> Conversation:
    """A stored chat as a conversation."""
    conversation = Conversation(stored.system)
    nodes: dict[int, Node] = {}
    answered = {message.parent for message in stored.messages}
    for message in stored.messages:  # parents come first
        if message.role == "assistant" and not message.text and message.id not in answered:
            continue  # the app ended before the first word
        node = Node(
            message.role,
            message.text,
            message.pictures,
            list(message.ids),
            message.note,
            message.whole,
            message.stats,
            message.created,
            message.id,
        )
        nodes[message.id] = conversation.add(node, nodes.get(message.parent or 0))
    if stored.leaf in nodes:
        conversation.show(nodes[stored.leaf])
    return conversation
