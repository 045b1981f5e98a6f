"""Changes to TOML text that leave all else as a person wrote it, comments and layout.

Knows nothing of files, and of what the keys mean. tomlkit changes and takes away; where a new
line goes, and how its value is written, is decided here.
"""

import re
import tomllib
from collections.abc import Mapping

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Comment, Item, Trivia
from tomlkit.toml_document import TOMLDocument

from ...errors import MaverickError, UsageError

Scalar = str | int | float | bool
# What TOML allows in a string only when it is escaped; a newline has its own rule.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def changed(text: str, changes: Mapping[str, Scalar | None]) -> str:
    """`text` with other values for some keys, all else as it was; None takes a key away.

    `text` must be TOML. Raises UsageError for a value that TOML cannot hold, and MaverickError
    if the text is so unusual that it cannot be changed without harm.
    """
    wanted = tomllib.loads(text)
    new: dict[str, Scalar] = {}
    try:
        document = tomlkit.parse(text)
        for key, value in changes.items():
            if value is None:
                _take_away(document, key)
                wanted.pop(key, None)
                continue
            if key not in wanted:
                new[key] = value
            elif wanted[key] != value:
                document[key] = _item(key, value)
            wanted[key] = value
        result = tomlkit.dumps(document)
        for key, value in new.items():
            result = _with_line(result, f"{key} = {_literal(key, value)}")
        # What was written by hand is worth more than any change of ours.
        harmless = tomllib.loads(result) == wanted
    except (TOMLKitError, tomllib.TOMLDecodeError, RecursionError):
        harmless = False
    if not harmless:
        raise MaverickError("cannot be changed without harm to the rest; use an editor")
    return result


def _literal(key: str, value: Scalar) -> str:
    """A value as TOML writes it; text of several lines as it reads."""
    if not isinstance(value, str):
        return str(tomlkit.item(value).as_string())
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{key}: half a character, which TOML cannot hold") from None
    lines = [_CONTROL.sub(_escape, line.replace("\\", r"\\")) for line in value.split("\n")]
    if len(lines) == 1:
        return '"' + lines[0].replace('"', r"\"") + '"'
    body = "\n".join(lines).replace('"""', r'""\"')
    return f'"""\n{body}"""'  # TOML leaves the first newline out


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _item(key: str, value: Scalar) -> Item:
    item = tomlkit.parse(f"{key} = {_literal(key, value)}")[key]
    assert isinstance(item, Item)
    return item


def _take_away(document: TOMLDocument, key: str) -> None:
    """The key goes; a comment behind it stays, as a line of its own."""
    item = document.get(key)
    if item is None:
        return
    at = next(i for i, (k, _) in enumerate(document.body) if k is not None and k.key == key)
    document.remove(key)
    if comment := item.trivia.comment if isinstance(item, Item) else "":
        document.body[at] = (None, Comment(Trivia(comment=comment)))


def _with_line(text: str, line: str) -> str:
    """With one more key: below the last one that is in no table. tomlkit would put it below the
    comment above the first table, which is about the table."""
    lines = list(filter(None, re.split(r"(?<=\n)", text)))
    last = 0  # lines up to the last key outside tables
    first_table = len(lines)
    for n, above in enumerate(lines, 1):
        if not above.strip() or above.lstrip().startswith("#"):
            continue
        try:
            before = tomllib.loads("".join(lines[:n]) + "\n")
            probed = tomllib.loads("".join(lines[:n]) + f"\n{line}")
        except tomllib.TOMLDecodeError:  # in the middle of a value
            continue
        if len(probed) == len(before):  # it went into a table
            first_table = n - 1
            break
        last = n
    at = last
    if not last:
        at = first_table
        while at < len(lines) and at and lines[at - 1].lstrip().startswith("#"):
            at -= 1
    end = "\r\n" if "\r\n" in text else "\n"
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += end
    lines.insert(at, line + end)
    return "".join(lines)
