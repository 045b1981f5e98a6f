"""Tool calls in replies: every notation, whatever is around it, and nothing that is no call."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.errors import UsageError
from mlx_maverick.tools.parse import ToolCall, parse

NAMES = {"get_weather", "f", "fs.read-file"}
START, END = "<|python_start|>", "<|python_end|>"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False,
                                                                    allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
keywords = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
calls = st.lists(
    st.builds(
        ToolCall, st.sampled_from(sorted(NAMES)), st.dictionaries(keywords, values, max_size=3)
    ),
    min_size=1,
    max_size=3,
)


def python(call: ToolCall, value: Callable[[Any], str] = repr) -> str:
    return f"{call.name}({', '.join(f'{k}={value(v)}' for k, v in call.arguments.items())})"


def object_(call: ToolCall, key: str = "parameters", ascii: bool = True) -> str:
    return json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=ascii)


FORMS: dict[str, Callable[[list[ToolCall]], str]] = {
    "python": lambda cs: f"[{', '.join(map(python, cs))}]",
    "python with JSON": lambda cs: f"[{', '.join(python(c, json.dumps) for c in cs)}]",
    "python over lines": lambda cs: "[\n  " + ",\n  ".join(map(python, cs)) + ",\n]",
    "bare": lambda cs: "\n".join(map(python, cs)),
    "bare, in a line": lambda cs: "; ".join(map(python, cs)),
    "JSON": lambda cs: "".join(map(object_, cs)),
    "JSON lines": lambda cs: "\n".join(object_(c, ascii=False) for c in cs),
    "JSON, semicolons": lambda cs: "; ".join(object_(c, "arguments") for c in cs),
    "JSON, commas": lambda cs: ", ".join(map(object_, cs)),
    "JSON array": lambda cs: f"[{', '.join(map(object_, cs))}]",
    "JSON, indented": lambda cs: json.dumps(
        [{"type": "function", "name": c.name, "parameters": c.arguments} for c in cs], indent=4
    ),
    "OpenAI": lambda cs: json.dumps([c.as_openai() for c in cs]),
    "as Python writes it": lambda cs: repr(
        [{"name": c.name, "parameters": c.arguments} for c in cs]
    ),
    "tags": lambda cs: "".join(
        f"<function={c.name}>{json.dumps(c.arguments)}</function>" for c in cs
    ),
}
AROUND: dict[str, tuple[str, str, str]] = {  # before, after, and the text that is left
    "nothing": ("", "", ""),
    "tags": (START, END, ""),
    "an open tag": (START + "\n", "", ""),
    "text": ("Let me look that up.\n\n", "\nPlease wait (a bit).", "Let me look that up.\n"
             "\n\nPlease wait (a bit)."),
    "text and tags": (f"I see {{it}}.{START}", f"{END}\n", "I see {it}."),
    "the template's text": (f"{START}I see [it].{END}", "", "I see [it]."),
}  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(wanted=calls)
def test_what_is_written_is_read(form: str, around: str, wanted: list[ToolCall]) -> None:
    before, after, left = AROUND[around]
    parsed = parse(before + FORMS[form](wanted) + after, NAMES)
    assert parsed.problem is None
    assert list(parsed.calls) == wanted
    assert [c.name for c in parsed.calls] == [c.name for c in wanted]
    assert parsed.text == left
    if "bare" not in form:
        assert list(parse(before + FORMS[form](wanted) + after).calls) == wanted


PIECES = ["[", "]", "{", "}", "(", ")", ",", ";", "=", ":", '"', "'", '"""', "\\", "\n", " ", "f",
          "get_weather", "a", "1", "-", ".", "e9", "null", "True", "```", "`", "<function=f>",
          "</function>", START, END, '{"name": "f", "parameters": {', "[f(a=", "\\u12",
          "**"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join))
def test_any_text_is_taken(text: str) -> None:
    for names in (NAMES, None, {"f"}):
        parsed = parse(text, names)
        if not parsed.calls:
            assert parsed.text == text
        json.dumps([c.arguments for c in parsed.calls], allow_nan=False)


@pytest.mark.parametrize("form", ["python", "JSON array", "tags", "JSON"])
@given(wanted=calls, data=st.data())
def test_a_call_that_is_cut_off_is_not_made(
    form: str, wanted: list[ToolCall], data: st.DataObject
) -> None:
    text = FORMS[form](wanted)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    made = parse(cut, NAMES).calls
    assert list(made) == wanted[: len(made)]
    if form in ("python", "JSON array"):
        assert made == ()


@pytest.mark.parametrize(
    "text",
    [
        "The sky is blue.",
        "",
        '{"name": "Bob", "age": 3}',
        '{"name": "f", "description": "d", "parameters": {}}',  # a definition
        '{"parameters": {"a": 1}}',
        '{"a": {"name": "f", "parameters": {}}}',
        '{"items": [\n{"name": "f", "parameters": {}}\n]}',
        '[1, 2, {"a": "b"}]',
        "Use `[f(a=1)]` or `f(a=1)` to call it.",
        "```python\nf(a=1)\n[f(a=1)]\n```\nThat is how to call it.",
        '```json\n{"name": "f", "parameters": {}}',
        "~~~\n[f()]\n~~~ \nSo.",
        "You could say f(a=1) there.",
        "I would write [f(a=1)] in this place.",
        "f(x) is a function of x, and f(a=1) one of its values.",
        "f(a=1) is one of its values.",
        'Say {"name": "f", "parameters": {}} to call it.',
        "x" * 150 + " " * 100 + "[f(a=1)] and more",
        "```\n[f(a=1)]\nprint(x)\n```",
        "[print(x) for x in y]",
        "[f(1)](https://example.com)",
        "[f(a=1)](https://example.com)",
        "x = [g(a=1)]",
        "f (the function) is nice",
        "def f(a=1):\n    return 2",
        "{f(x)}",
        "- [ ] f\n- [x] done",
        r"$\frac{f(x)}{g(x)}$",
    ],
)
def test_ordinary_answers_have_no_calls_and_no_problems(text: str) -> None:
    parsed = parse(text, NAMES)
    assert parsed == parse(text, [])
    assert (parsed.text, parsed.calls, parsed.problem) == (text, (), None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[f(1)]", "f: expected name=value, not '1)]'"),
        ("[f(a=1, a=2)]", "f: 'a' is given twice"),
        ("[f(a=x)]", "f: expected a value, not 'x)]'"),
        ("[f(a==1)]", "name=value"),
        ("[f(**{'a': 1})]", "name=value"),
        ("[f(a=f'{x}')]", "expected a value"),
        ("[f(a=1 + 1)]", "expected ',' or ')'"),
        ("[f(a={1, 2})]", "name in quotes"),
        ("[f(a={1: 2})]", "name in quotes"),
        ("[f(a={'x': 1, 'x': 2})]", "'x' is given twice"),
        ("[f(a=007)]", "expected a value"),
        ("[f(a=1e999)]", "too large"),
        ("[f(a=NaN)]", "expected a value"),
        ("[f(a='\\ud800')]", "half a character"),
        ("[f(a=" + "9" * 5000 + ")]", "5000 digits"),
        ("[f(a=" + "[" * 100 + "]" * 100 + ")]", "nested deeper than 64"),
        ("[f(a='x)]", "no end"),
        ("[f(a=1)", "the text ends"),
        ("[f(a=1), f(b=)]", "expected a value"),
        ("[f(a=1), g(b=1)]", "unknown function 'g'"),
        ("[g(b=1)]", "unknown function 'g'"),
        ("f(a=x)", "expected a value"),
        ("f('x')", "name=value"),
        (START + "f(x)" + END, "name=value"),
        (START + "[g(x)]" + END, "name=value"),
        (START + "print(1)" + END, "not a call"),
        ('{"name": "g", "parameters": {}}', "unknown function 'g'"),
        ('{"name": "f", "parameters": [1]}', "not an object"),
        ('{"name": "f", "arguments": "a=1"}', "f: expected a value"),
        ('{"name": "f", "arguments": "{} {}"}', "expected the end"),
        ('{"name": "f", "parameters": {"a": 1}', "the text ends"),
        ('{"name": "f", "parameters": {"a": b}}', "expected a value"),
        ('[{"name": "f", "parameters": {}}, {"b": 1}]', "mixed"),
        ("<function=f>{</function>", "f: "),
        ("<function=f>{} and", "</function>"),
        ("<function=g>{}</function>", "unknown function 'g'"),
        ("<function=f>[1]</function>", "not an object"),
    ],
)
def test_broken_calls_stay_text_and_say_why(text: str, why: str) -> None:
    parsed = parse(text, NAMES)
    assert (parsed.text, parsed.calls) == (text, ())
    assert parsed.problem is not None
    assert why in parsed.problem
    assert len(parsed.problem) < 100
    assert parse(f"Here it is:\n{text}", NAMES).calls == ()


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (r"[f(a='it\'s', b=" + r'"say \"x\"")]', {"a": "it's", "b": 'say "x"'}),
        (r'[f(a="\u00e9\x41\101\n\U0001f600")]', {"a": "éAA\n😀"}),
        (r'[f(a="\ud83d\ude00")]', {"a": "😀"}),  # as JSON writes it
        (r'[f(a="\d+")]', {"a": r"\d+"}),
        ("[f(a='''two\nlines' ''', b=\"\"\"\"x\"\"\")]", {"a": "two\nlines' ", "b": '"x'}),
        ("[f(a=-1, b=+2, c=.5, d=1_000, e=-1.5e-3)]",
         {"a": -1, "b": 2, "c": 0.5, "d": 1000, "e": -0.0015}),
        ("[f(a=(1, 2), b=(3), c=(4,), d=())]", {"a": [1, 2], "b": 3, "c": [4], "d": []}),
        ("[f(a=[True, null, {'b': None}],)]", {"a": [True, None, {"b": None}]}),
        ('{"name": "f", "parameters": null}', {}),
        ("[f(a=1)];", {"a": 1}),
        ("[f(a=1);]", {"a": 1}),
        ('{"parameters": {"a": 1}, "name": "f"}', {"a": 1}),
        ("{'name': 'f', 'parameters': {'a': True}}", {"a": True}),
        ('[f(a="<|python_end|> [f()] ```")]', {"a": "<|python_end|> [f()] ```"}),
        ("<function=f>{'a': 1}", {"a": 1}),  # the end was the stop string
    ],
)  # fmt: skip
def test_values(text: str, arguments: dict[str, Any]) -> None:
    parsed = parse(text, NAMES)
    assert parsed == parse(text)
    assert (parsed.text, parsed.problem) == ("", None)
    assert [c.arguments for c in parsed.calls] == [arguments]


def test_calls_before_a_broken_one_count() -> None:
    good = '{"name": "f", "parameters": {}}'
    parsed = parse(f"Now: {good}\n[f(1)]\n{good}", NAMES)
    assert [c.name for c in parsed.calls] == ["f"]
    assert parsed.text == f"Now: \n[f(1)]\n{good}"
    assert "expected name=value, not '1)]" in str(parsed.problem)


def test_a_sentence_may_lead_to_calls() -> None:
    parsed = parse('Let me check: [get_weather(city="New York")]', NAMES)
    assert parsed.text == "Let me check:"
    assert parsed.calls == (ToolCall("get_weather", {"city": "New York"}),)
    assert parse('Let me check: [get_weather(city="New York")]').calls == ()


def test_a_reply_that_is_one_code_block_may_be_a_call() -> None:
    for code in ("[f(a=1)]", '{"name": "f", "parameters": {"a": 1}}'):
        text = f"```json\n{code}\n```\n"
        assert parse(text, NAMES).calls == (ToolCall("f", {"a": 1}),)
        assert parse(text, NAMES).text == ""
        assert parse(text).calls == ()
        assert parse(text, {"g"}).text == text


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, "{" * 10**6, '[f(a="' * 10**5, "{'name': \"x" * 10**5, "`" * 10**6,
     "` `` " * 10**5, "[f(a=1)]x " * 10**4, "f(" * 10**5, "<function=f" * 10**5,
     "[f()]" + " " * 10**6 + "x", "[x(y)" * 10**5, '{"a":1} ' * 10**4, "```\n" * 10**5],
    ids=range(13),
)  # fmt: skip
def test_huge_texts_are_read_once(text: str) -> None:
    """Each of these took minutes wherever a part is read again from every place before it."""
    assert len(parse(text, NAMES).calls) <= 1


def test_calls_as_messages() -> None:
    call = ToolCall("f", {"a": "é", "b": [1]})
    message = call.as_openai()
    assert message["id"] == call.id
    assert message["type"] == "function"
    assert json.loads(message["function"]["arguments"]) == call.arguments
    back = ToolCall.from_openai(message)
    assert (back, back.id) == (call, call.id)
    assert ToolCall("f", {}).id != ToolCall("f", {}).id
    inner = {"name": "f", "parameters": {"a": "é", "b": [1]}}
    assert ToolCall.from_openai(inner) == ToolCall.from_openai(call) == call


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "tool call is not"),
        ({"function": 5}, "tool call is not"),
        ({"name": 5}, "tool call is not"),
        ({"name": 'x"', "arguments": {}}, "no function's name"),
        ({"name": "f", "arguments": "{"}, "not JSON"),
        ({"name": "f", "arguments": "[]"}, "not a JSON object"),
        ({"name": "f", "arguments": 5}, "not a JSON object"),
    ],
)
def test_bad_calls_in_messages_are_refused(value: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ToolCall.from_openai(value)
