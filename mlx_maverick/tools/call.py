"""One tool call: as an object, as a message's part, and in the notations models write.

Knows nothing of where in a reply it stands.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from .literals import Malformed, Reader

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # of a function

_KEYWORD = re.compile(r"[^\W\d]\w*")
_KEYS = {"name", "parameters", "arguments", "type", "id"}


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called. Equal calls may have different ids."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}", compare=False)

    def as_openai(self) -> dict[str, Any]:
        """An element of a message's `tool_calls`. The message with the result is
        `{"role": "tool", "tool_call_id": id, "content": result}`."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}

    @staticmethod
    def from_openai(value: Any) -> "ToolCall":
        """The opposite; also of a call without the `function` around it, and with arguments
        as an object. Raises UsageError."""
        if isinstance(value, ToolCall):
            return value
        inner = value.get("function", value) if isinstance(value, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise UsageError('a tool call is not {"function": {"name": .., "arguments": ..}}')
        name, arguments = inner["name"], inner.get("arguments", inner.get("parameters"))
        if not NAME.fullmatch(name):
            raise UsageError(f"a tool call's name {name!r} is no function's name")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as e:
                raise UsageError(f"the arguments of {name} are not JSON ({e})") from None
        if not isinstance(arguments, Mapping | None):
            raise UsageError(f"the arguments of {name} are not a JSON object")
        call = ToolCall(name, dict(arguments or {}))
        return ToolCall(name, call.arguments, value["id"]) if value.get("id") else call


def read_keyword_call(reader: Reader) -> tuple[str, dict[str, Any]]:
    """`f(a=1, b="x")`: name and arguments. Raises Malformed."""
    name = reader.skip().match(NAME)
    if not name:
        raise reader.malformed("expected a function's name")
    reader.expect("(")
    arguments: dict[str, Any] = {}
    more = True
    while not reader.take(")"):
        if not more:
            raise reader.malformed("expected ',' or ')'")
        start = reader.at
        key = reader.match(_KEYWORD)
        if not key or not reader.take("=") or reader.text.startswith("=", reader.at):
            reader.at = start
            raise reader.malformed("expected name=value")
        if key in arguments:
            raise Malformed(f"{key!r} is given twice")
        arguments[key] = reader.value()
        more = reader.take(",")
    return name, arguments


def json_call(value: Any) -> tuple[str, Any] | None:
    """Name and arguments (an object, None, or JSON as a string) of JSON that has a call's
    shape: nothing but a call's keys. None for other JSON."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if value.get("type") == "function" and isinstance(inner, dict):
        return json_call(inner) if set(value) <= {"type", "function", "id", "index"} else None
    if not isinstance(value.get("name"), str) or not set(value) <= _KEYS:
        return None
    given = [key for key in ("parameters", "arguments") if key in value]
    if len(given) != 1 or value.get("type", "function") != "function":
        return None
    return value["name"], value[given[0]]


def json_arguments(value: Any) -> dict[str, Any]:
    """Arguments as an object, from one, from none, or from a string of JSON as OpenAI writes
    them. Raises Malformed."""
    if isinstance(value, str):
        reader = Reader(value)
        value = reader.value()
        if reader.skip().at < len(reader.text):
            raise reader.malformed("expected the end")
    if not isinstance(value, dict | None):
        raise Malformed("the parameters are not an object")
    return value or {}
