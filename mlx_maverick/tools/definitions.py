"""Functions that a model may call, as its chat template takes them.

Knows nothing of replies. A definition is OpenAI's: name, description, and the parameters as a
JSON schema.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from .call import NAME

Tool = Mapping[str, Any] | Callable[..., Any]


def definitions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """`{"type": "function", "function": {"name", "description", "parameters"}}` for each tool.

    A tool is that, or the inner object alone, or a Python function with type hints and a
    docstring that describes its arguments (Google style). Raises UsageError naming what is
    wrong.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise UsageError("tools is not a list of definitions or functions")
    made = [_definition(tool, f"tool {n}") for n, tool in enumerate(tools, start=1)]
    seen: set[str] = set()
    for name in names(made):
        if name in seen:
            raise UsageError(f"two tools are called {name!r}")
        seen.add(name)
    return made


def names(made: Sequence[Mapping[str, Any]]) -> list[str]:
    """The functions' names, of what `definitions` returned; `tools.parse` takes them."""
    return [str(definition["function"]["name"]) for definition in made]


def _definition(tool: Tool, which: str) -> dict[str, Any]:
    if callable(tool):
        tool = _of_function(tool)
    if not isinstance(tool, Mapping):
        raise UsageError(f"{which} is neither a definition nor a function")
    kind = tool.get("type", "function")
    if kind != "function":
        raise UsageError(f"{which} has type {kind!r}; only functions can be called")
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping):
        raise UsageError(f"{which}: 'function' is not an object")
    function = {key: value for key, value in inner.items() if key != "type"}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{which} has no name")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{which}: the name {name!r} is not letters, digits, '_', '-' and '.', "
            "beginning with a letter"
        )
    if not isinstance(function.get("description", ""), str):
        raise UsageError(f"{name}: the description is not text")
    function["parameters"] = _parameters(name, function.get("parameters"))
    try:
        json.dumps(function, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise UsageError(f"{name}: the definition is not JSON ({e})") from None
    return {"type": "function", "function": function}


def _parameters(name: str, parameters: Any) -> dict[str, Any]:
    if parameters is None:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise UsageError(f"{name}: the parameters are not an object")
    # Llama's own documentation writes "dict".
    if parameters.get("type", "object") not in ("object", "dict"):
        raise UsageError(f"{name}: the parameters have type {parameters['type']!r}, not 'object'")
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not isinstance(properties, Mapping):
        raise UsageError(f"{name}: 'properties' is not an object")
    if not isinstance(required, list | tuple) or not all(isinstance(r, str) for r in required):
        raise UsageError(f"{name}: 'required' is not a list of names")
    if missing := [r for r in required if properties and r not in properties]:
        raise UsageError(f"{name}: {missing[0]!r} is required, but not among the properties")
    return dict(parameters)


def _of_function(function: Callable[..., Any]) -> dict[str, Any]:
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
    )

    name = getattr(function, "__name__", None)
    if name is None:
        raise UsageError(f"{function!r} is no plain function; write its definition by hand")
    try:
        made: dict[str, Any] = get_json_schema(function)
    except (
        DocstringParsingException, TypeHintParsingException, TypeError, ValueError, NameError,
    ) as e:  # fmt: skip
        reason = " ".join(str(part) for part in e.args).splitlines()[0]
        raise UsageError(f"{name} cannot be described as a tool: {reason}") from None
    return made
