"""Tool calls in a reply's text.

Knows nothing of models or templates. Llama 4 writes calls as `[f(a=1), g()]` or as
`{"name": .., "parameters": ..}`, and as `<function=f>{..}</function>` where it was asked to
(meta-llama/llama-models, models/llama4/prompt_format.md); each with or without
`<|python_start|>` and `<|python_end|>`.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .call import NAME, ToolCall, json_arguments, json_call, read_keyword_call
from .literals import Malformed, Reader

__all__ = ["Parsed", "ToolCall", "parse"]

START = "<|python_start|>"
# Characters read in vain, after which no more calls are looked for: far more than a model
# writes by accident, and read in a second or two.
PATIENCE = 1_000_000
ATTEMPT = 16  # what an attempt costs besides
FENCES = ("```", "~~~")

_NAME = NAME.pattern
_CANDIDATE = (
    r"(?P<fence>^[ \t]*(?:```|~~~))|(?P<code>`+)|<function=(?P<tag>[^<>\n]{1,200})>"
    rf"|(?P<calls>\[\s*(?={_NAME}\s*\())|(?P<value>[\[{{])"
)
# How calls begin; what begins so and is broken was meant to be one.
_JSON_CALL = re.compile(
    r'(?:\[\s*)?\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>[^"\n]*)"\s*,'
    r'\s*"(?:parameters|arguments)"\s*:'
)
_KEYWORD_CALL = re.compile(rf"\[\s*{_NAME}\s*\(\s*(?:\)|\w+\s*=(?!=))")
_LINK = re.compile(r"\[[^\]\n]{0,300}+\]\(")
_BARE_CALL = re.compile(rf"{_NAME}\s*\(\s*(?:\)|\w+\s*=(?!=)|[\"'*])")
# What may follow calls that stand at the end of a line, and calls without brackets.
_END = re.compile(r"[ \t]*+[;,]?[ \t]*+(?:\r?\n|\Z|[\[{]|<function=|<\|python_end\|>)")
_BARE_END = re.compile(rf"[ \t]*+(?:\r?\n|\Z|<\|python_end\|>|[;,]\s*+(?:{_NAME}\s*\(|\Z))")
_TAGS = re.compile(r"<\|python_(?:start|end)\|>")
_SPACES = r"(?:\s|<\|python_(?:start|end)\|>)*+"
_BETWEEN = re.compile(rf"{_SPACES}[;,]?{_SPACES}")
_AFTER = re.compile(r"[ \t]*+[;,]")


@dataclass(frozen=True)
class Parsed:
    """A reply: its text without the calls, the calls in order, and why something that looks
    like a call was left in the text."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None


def parse(text: str, names: Collection[str] | None = None) -> Parsed:
    """The tool calls in a reply.

    `names` are the functions that were offered; with None any name is taken. Without calls
    the text is returned as it is. From the first broken call on everything stays text, and
    `problem` says why; calls before it count. Code blocks are not searched, unless one is the
    whole reply. Never raises.
    """
    if names is not None and not names:
        return Parsed(text)
    if names and (code := _only_code(text)):
        inside = _Search(code, names).run()
        if inside.calls and not inside.text:
            return inside
    return _Search(text, names).run()


def _only_code(text: str) -> str:
    """What is in the code block that is the whole text; '' if there is none."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    marks = first[:3]
    if marks not in FENCES or not rest.endswith(marks) or rest.count(marks) != 1:
        return ""
    return rest[: -len(marks)]


class _NotACall(Exception):
    """What was read is no call; a problem if it was meant to be one."""

    def __init__(self, problem: str | None = None):
        self.problem = problem


class _Search:
    """One pass over a reply, from the left."""

    def __init__(self, text: str, names: Collection[str] | None):
        self.text, self.names = text, names
        self.calls: list[ToolCall] = []
        self.places: list[tuple[int, int]] = []  # of calls in the text
        self._line = 0  # where the current line, or what follows a call, begins
        self._patience = PATIENCE
        longest_first = "|".join(map(re.escape, sorted(names or (), key=len, reverse=True)))
        bare = rf"|(?<![\w.-])(?P<bare>{longest_first})\s*\(" if names else r"|(?P<bare>(?!))"
        self._candidates = re.compile(_CANDIDATE + bare, re.MULTILINE)

    def run(self) -> Parsed:
        at, problem = 0, None
        while self._patience > 0 and (found := self._candidates.search(self.text, at)):
            start = found.start()
            self._line = max(self._line, self.text.rfind("\n", at, start) + 1)
            try:
                at, calls = self._read(found)
            except _NotACall as e:
                at, calls, problem = start + 1, [], e.problem
                if problem:
                    break
            if calls:
                self.calls += calls
                self.places.append((start, at))
                self._line = at
        if not self.calls and not problem and START in self.text:
            problem = f"what follows {START} is not a call"
        return Parsed(self._rest(), tuple(self.calls), problem)

    def _read(self, found: re.Match[str]) -> tuple[int, list[ToolCall]]:
        """Where the candidate ends, and its calls: none if it is ordinary. Raises _NotACall."""
        if found["fence"] or found["code"]:
            return self._after_code(found), []
        if found["tag"]:
            return self._tagged(found)
        if found["value"]:
            return self._json(found.start())
        read = self._bare if found["bare"] else self._bracketed
        return self._pythonic(found.start(), read)

    def _tagged(self, found: re.Match[str]) -> tuple[int, list[ToolCall]]:
        name, reader = found["tag"].strip(), Reader(self.text, found.end())
        self._check_name(name)
        try:
            arguments = json_arguments(reader.value())
            if not reader.take("</function>") and reader.at < len(self.text):
                raise reader.malformed("expected '</function>'")
        except Malformed as e:
            raise _NotACall(f"{name}: {e}") from None
        return reader.at, [ToolCall(name, arguments)]

    def _json(self, start: int) -> tuple[int, list[ToolCall]]:
        reader = Reader(self.text, start)
        try:
            value = reader.value()
        except Malformed as e:
            self._patience -= reader.at - start + ATTEMPT
            meant = _JSON_CALL.match(self.text, start)
            if meant and (self._offered(meant["name"]) or self._begins_line(start)):
                raise _NotACall(f"{meant['name']}: {e}") from None
            raise _NotACall from None
        values = value if isinstance(value, list) else [value]
        found = [json_call(v) for v in values]
        if not any(found) or not self._stands_alone(start, reader.at):
            return reader.at, []
        return reader.at, [self._json_call(call) for call in found]

    def _json_call(self, call: tuple[str, Any] | None) -> ToolCall:
        if call is None:
            raise _NotACall("calls are mixed with other JSON")
        name, arguments = call
        try:
            arguments = json_arguments(arguments)
        except Malformed as e:
            raise _NotACall(f"{name}: {e}" if self._offered(name) else None) from None
        self._check_name(name)
        return ToolCall(name, arguments)

    def _pythonic(
        self, start: int, read: Callable[[Reader], list[tuple[str, dict[str, Any]]]]
    ) -> tuple[int, list[ToolCall]]:
        reader = Reader(self.text, start)
        try:
            calls = read(reader)
        except Malformed as e:
            self._patience -= reader.at - start + ATTEMPT
            first = NAME.search(self.text, start)
            meant = self._bare_meant if read == self._bare else self._bracketed_meant
            raise _NotACall(f"{first[0]}: {e}" if first and meant(start) else None) from None
        for name, _ in calls:
            self._check_name(name)
        return reader.at, [ToolCall(*call) for call in calls]

    def _bracketed(self, reader: Reader) -> list[tuple[str, dict[str, Any]]]:
        start = reader.at
        reader.expect("[")
        calls = [read_keyword_call(reader)]
        while not reader.take("]"):
            if not (reader.take(",") or reader.take(";")):
                raise reader.malformed("expected ',' or ']'")
            if not reader.take("]"):
                calls.append(read_keyword_call(reader))
                continue
            break
        link = self.text.startswith("(", reader.at)  # [f()](address)
        known = any(self._offered(name) for name, _ in calls)
        if link or not self._stands_alone(start, reader.at if known else -1):
            raise _NotACall
        return calls

    def _bare(self, reader: Reader) -> list[tuple[str, dict[str, Any]]]:
        if not self._begins_line(reader.at):
            raise _NotACall
        call = read_keyword_call(reader)
        if not _BARE_END.match(self.text, reader.at):
            raise _NotACall
        return [call]

    def _bracketed_meant(self, start: int) -> bool:
        """Whether what is broken was meant to be a call."""
        if _LINK.match(self.text, start):
            return False
        name = NAME.search(self.text, start)
        if (name and self._offered(name[0])) or self._in_tags(start):
            return True
        begins = self.names is None and self._begins_line(start)
        return begins and bool(_KEYWORD_CALL.match(self.text, start))

    def _bare_meant(self, start: int) -> bool:
        first = self._line == (self.places[-1][1] if self.places else 0)
        return (first and bool(_BARE_CALL.match(self.text, start))) or self._in_tags(start)

    def _in_tags(self, start: int) -> bool:
        return self.text.rfind(START, max(0, start - len(START) - 2), start) >= 0

    def _offered(self, name: str) -> bool:
        return self.names is not None and name in self.names

    def _check_name(self, name: str) -> None:
        if self.names is not None and name not in self.names:
            raise _NotACall(f"unknown function {name!r}")

    def _stands_alone(self, start: int, end: int) -> bool:
        """At the beginning of a line, or, where names are known, at the end of one."""
        ends = self.names is not None and end >= 0 and bool(_END.match(self.text, end))
        return ends or self._begins_line(start)

    def _begins_line(self, at: int) -> bool:
        """Whether only space and separators of calls are before it on its line, or after a
        python tag."""
        start = max(self._line, at - 100)
        before, *after_tags = _TAGS.split(self.text[start:at])
        if after_tags:
            before = after_tags[-1]
        elif start > self._line:
            return False
        return not before.strip(" \t\r\n;," if self.places else None)

    def _after_code(self, found: re.Match[str]) -> int:
        """The end of a code block, or of code inside a line."""
        start = found.end()
        if marks := found["code"]:
            end = self.text.find(marks, start, start + 1000)
            inside = end >= 0 and "\n" not in self.text[start:end]
            return end + len(marks) if inside else start
        closing = re.compile(rf"^[ \t]*{found['fence'].strip()}[ \t]*$", re.MULTILINE)
        closed = closing.search(self.text, start)
        return closed.end() if closed else len(self.text)

    def _rest(self) -> str:
        """The text around the calls, without the tags and separators that belong to them."""
        if not self.calls:
            return self.text
        kept, at = [], 0
        for start, end in self.places:
            between = self.text[at:start]
            kept.append("" if _BETWEEN.fullmatch(between) and at else between)
            at = end
        after = _AFTER.match(self.text, at)
        kept.append(self.text[after.end() if after else at :])
        return _TAGS.sub("", "".join(kept)).strip()
