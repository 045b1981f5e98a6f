"""Messages as chat templates take them: checked, and in one form.

Knows nothing of tokens. The published template of Llama 4 drops or spoils some messages that
are right (see the comments); they are changed here so that it says what they mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import ModelConfig
from .errors import UsageError
from .images import Picture, load_picture
from .tools.call import ToolCall

Message = Mapping[str, Any]
ROLES = ("system", "user", "assistant", "tool", "ipython")
RESULTS = ("tool", "ipython")  # roles of what a tool returned


@dataclass(frozen=True)
class Conversation:
    """Messages in one form: `content` is text, or a list of text and image parts, or, of a
    tool's result, anything JSON; `tool_calls` are OpenAI's with arguments as objects."""

    messages: list[dict[str, Any]]
    images: list[Picture]  # in the order of their parts

    @staticmethod
    def of(messages: str | Sequence[Message], config: ModelConfig) -> "Conversation":
        """Raises UsageError, NotFound or BadImage for what is no conversation that the
        assistant could go on with."""
        images: list[Picture] = []
        plain = [_message(message, images, config) for message in _listed(messages)]
        last = plain[-1]
        if any(message.get("partial") for message in plain[:-1]):
            raise UsageError("only the last message can be partial, to be gone on with")
        if last["role"] == "assistant":
            if last.get("partial") and not last.get("tool_calls"):
                return Conversation(_results_in_order(plain), images)
            raise UsageError(
                "the last message is the assistant's; end with a user's, or mark it as partial to "
                "go on with it"
            )
        silent = last["role"] not in RESULTS and not _says_something(last["content"])
        if last["role"] == "system" or silent:
            raise UsageError("the prompt is empty; write a message")
        return Conversation(_results_in_order(plain), images)

    @property
    def goes_on(self) -> bool:
        """Whether the last message is the beginning of the reply that is asked for."""
        return bool(self.messages[-1].get("partial"))

    def with_placeholders(self, picture: str) -> list[dict[str, Any]]:
        """The messages with lists of parts as text, pictures as `picture`: with tools, the
        published template takes no lists."""
        return [
            m if m["role"] in RESULTS else {**m, "content": _joined(m["content"], picture)}
            for m in self.messages
        ]

    def check_for_tools(self) -> None:
        """Raises UsageError if the first message after the system's is not a user's: there
        the published template writes the tools, and calls it the user's whatever it is."""
        rest = self.messages[self.messages[0]["role"] == "system" :]
        if rest[0]["role"] != "user":
            raise UsageError(
                f"with tools, a conversation begins with a user's message, not {rest[0]['role']}'s"
            )


def _message(message: Message, images: list[Picture], config: ModelConfig) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UsageError(f"role {role!r} is not one of {', '.join(ROLES)}")
    made = {**message}
    calls = made.pop("tool_calls", None)
    for key in ("token_ids", "partial"):
        if key in made and role != "assistant":
            raise UsageError(f"a {role} message has {key}; only the assistant's can")
    if not isinstance(made.get("partial", False), bool):
        raise UsageError(f"partial is {made['partial']!r}, not true or false")
    if calls:
        if role != "assistant":
            raise UsageError(f"a {role} message has tool_calls; only the assistant's can")
        made["tool_calls"] = _tool_calls(calls)
    # An empty tool_calls is left out: the template would drop the whole message.
    if role in RESULTS:
        return {**made, "content": _result(content)}
    if content is None and calls:
        content = ""  # as OpenAI's clients write it
    if isinstance(content, str):
        return {**made, "content": content}
    if not isinstance(content, Sequence):
        raise UsageError("content is neither text nor a list of text and image parts")
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind in ("image", "image_url"):
            if role != "user":
                raise UsageError(f"a {role} message cannot hold a picture; only a user's can")
            images.append(load_picture(_image_source(part), config))
            parts.append({"type": "image"})
        else:
            raise UsageError(f"content part {kind!r} is neither text nor an image")
    if all(p["type"] == "text" for p in parts):
        # Templates differ in how they take lists; plain text is the same in all.
        return {**made, "content": _joined(parts, "")}
    return {**made, "content": parts}


def _tool_calls(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise UsageError("tool_calls is not a list")
    made = []
    for value in calls:
        call = ToolCall.from_openai(value)
        _check_json(call.arguments, f"the arguments of {call.name}")
        # The template writes arguments as JSON: as a string they would be quoted once more.
        function = {"name": call.name, "arguments": call.arguments}
        made.append({"id": call.id, "type": "function", "function": function})
    return made


def _result(content: Any) -> Any:
    """What a tool returned. The template writes it as JSON, so a string of JSON is taken for
    what it says; otherwise it would be quoted once more."""
    if isinstance(content, list | tuple) and content and all(map(_is_part, content)):
        if not all(part["type"] == "text" for part in content):
            raise UsageError("a tool message cannot hold a picture; only a user's can")
        content = _joined(content, "")
    if isinstance(content, str):
        try:
            value = json.loads(content, parse_constant=_no_constant)
            json.dumps(value, ensure_ascii=False).encode()  # fails for half a character
        except (ValueError, RecursionError):
            return content
        return value if isinstance(value, dict | list) else content
    _check_json(content, "a tool's result")
    # Alone, these would be written as Python's words.
    return json.dumps(content) if content is None or isinstance(content, bool) else content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_part(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    text = part.get("type") == "text" and isinstance(part.get("text"), str)
    return text or part.get("type") in ("image", "image_url")


def _check_json(value: Any, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise UsageError(f"{what}: not JSON ({e})") from None


def _results_in_order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results in the order of the calls they answer: the template shows no ids. Raises
    UsageError for an id that no call has."""
    ordered: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    turn: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] in RESULTS:
            id = message.get("tool_call_id")
            if id is not None and id not in order:
                raise UsageError(
                    f"a tool's result answers {id!r}, but no call before it has that id"
                )
            turn.append(message)
            continue
        ordered += _sorted(turn, order)
        turn = []
        calls = message.get("tool_calls", ())
        order = {call["id"]: place for place, call in enumerate(calls)}
        ordered.append(message)
    return ordered + _sorted(turn, order)


def _sorted(turn: list[dict[str, Any]], order: dict[str, int]) -> list[dict[str, Any]]:
    if any(message.get("tool_call_id") is None for message in turn):
        return turn
    return sorted(turn, key=lambda message: order[message["tool_call_id"]])


def _joined(content: Any, picture: str) -> str:
    if isinstance(content, str):
        return content
    return "".join(p["text"] if p["type"] == "text" else picture for p in content)


def _listed(messages: str | Sequence[Message]) -> list[Message]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    listed = isinstance(messages, Sequence) and not isinstance(messages, bytes)
    if not listed or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise UsageError("messages is not a list of {'role', 'content'} objects")
    return list(messages)


def _image_source(part: Mapping[str, Any]) -> Any:
    """The picture of a content part, in our spelling or OpenAI's."""
    source = part.get("image", part.get("path", part.get("url")))
    if source is None and isinstance(part.get("image_url"), Mapping):
        source = part["image_url"].get("url")
    if source is None:
        raise UsageError("an image part has no 'image'; give a path, bytes or a PIL image")
    return source


def _says_something(content: Any) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return any(p["type"] == "image" or p["text"].strip() for p in content)
