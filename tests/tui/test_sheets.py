"""A message in pieces and sheets reads as it would in one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.tui.layout import Page
from mlx_maverick.tui.message import Paper, Reply
from mlx_maverick.tui.prose import parser
from mlx_maverick.tui.sheets import LIMIT, Piece, Sheets, plain

LINES = [
    "",
    "",
    "some text",
    "more of it, *so*",
    "- item",
    "- other",
    "  goes on",
    "  - nested",
    "1. one",
    "2. two",
    "```py",
    "```",
    "x = 1",
    "    indented",
    "> quote",
    "# Head",
    "| a | b |",
    "|---|---|",
    "| 1 | 2 |",
    "---",
    "***",
    "~~~",
    "   ```",
    "[x]: http://y",
    "> ```",
]


def lines(source: str, **page: int | None) -> list[str]:
    """What is shown of some Markdown, without blank lines."""
    made = Page(60, **page).lay(parser().parse(source))  # type: ignore[arg-type]
    return [line.strip() for line in made.lines if line.strip()]


def shown(sheets: Sheets) -> list[str]:
    out = []
    for piece in sheets.pieces():
        out += lines(piece.source, number=piece.number, first_code=piece.first_fence)
    return out


def state(sheets: Sheets) -> list[list[dict[str, object]]]:
    return [[vars(piece) for piece in sheet.pieces] for sheet in sheets.sheets]


def pieces(text: str) -> list[Piece]:
    return list(Sheets(text, whole=True).pieces())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=14), st.lists(st.integers(1, 9), min_size=1))
def test_streaming_ends_as_the_whole(some: list[str], steps: list[int]) -> None:
    text = "\n".join(some)
    made, at, turn = Sheets(), 0, 0
    while at < len(text):
        step = steps[turn % len(steps)]
        made.append(text[at : at + step])
        at, turn = at + step, turn + 1
    made.finish()
    assert state(made) == state(Sheets(text, whole=True))
    assert not any(piece.open for piece in made.pieces())


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n\nc",
        "a\n- b\n- c\n\n  d\n- e\n\nf",
        "1. a\n1. b\n   - c\n     d\n1. e\n\n\n1. f\n\ng\n\n1. h",
        "3) a\n4) b\n1. c\n- d\n* e",
        "# a\nb\n## c\nd\n===\ne",
        "a\n---\nb\n\n---\n\n- c\n---\nd\n***\ne",
        "```py\na\n\n- b\n```\nc\n```\nd",
        "1. a\n   ```py\n   b\n\n   c\n   ```\n   d\n2. e",
        "- a\n\n      code\n\n- b\n```\nc\n```",
        "1. a\n   ```\n   b\nc out of the list",
        "> a\nlazy\n\n> ```\n> b\n> ```\nc",
        "a\n> b\n- c",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nx",
        "    code\n\n    more\n\ntext",
        "~~~\n```\n~~~\n````\n```\n````\n`not ``` a fence`\n``` nor ` this\n",
        "a  \nb\\\nc",
        "\r\na\r\n\r\nb\r\n",
        "   ```\n   x\n   ```\n  # head\n  - a\n  - b",
        "",
        "\n\n\n",
    ],
)
def test_pieces_read_as_the_whole(text: str) -> None:
    assert shown(Sheets(text, whole=True)) == lines(text)
    assert shown(Sheets(text)) == lines(text)  # while it comes, too


def test_blank_lines_are_where_they_were() -> None:
    gaps = [(p.source.strip(), p.gap) for p in pieces("a\n- b\n- c\n\n- d\n\ne\n# f\ng")[1:]]
    assert [piece for piece, gap in gaps if not gap] == ["- c"]
    assert len(gaps) == 6


def test_a_finished_piece_never_changes() -> None:
    text = "".join(f"{i}. item\n\n   ```py\n   x = {i}\n   ```\n\ntext {i}\n\n" for i in range(300))
    made = Sheets()
    done: dict[Piece, tuple[str, int]] = {}
    for at in range(0, len(text), 7):
        made.append(text[at : at + 7])
        for piece, (source, fences) in done.items():
            assert not piece.open
            assert (piece.source, piece.fences) == (source, fences)
        done = {p: (p.source, p.fences) for p in made.pieces() if not p.open}
    assert len(made.sheets) > 3
    assert all(not p.open for sheet in made.sheets[:-1] for p in sheet.pieces)
    assert [sheet.open for sheet in made.sheets] == [False] * (len(made.sheets) - 1) + [True]
    made.finish()
    assert not any(sheet.open for sheet in made.sheets)


def test_sheets_are_bounded() -> None:
    text = "".join(f"## {i}\n\n" + "word " * (i % 400) + "\n\n" for i in range(400))
    made = Sheets(text, whole=True)
    assert max(sheet.size for sheet in made.sheets) <= LIMIT + 10
    assert len(made.sheets) < 2 * len(text) / LIMIT
    assert shown(made) == lines(text)


def test_a_code_block_is_not_cut_if_it_fits_a_sheet() -> None:
    code = "```py\n" + "x = 1\n" * 600 + "```"
    text = "a\n\n" + "word " * 500 + "\n\n" + code + "\n\nb"
    made = Sheets(text, whole=True)
    assert code in [piece.source for piece in made.pieces()]
    assert len(made.sheets) > 1


@pytest.mark.parametrize("size", range(LIMIT - 20, LIMIT + 20, 3))
def test_a_cut_leaves_no_empty_code_block(size: int) -> None:
    code = "x" * 79 + "\n"
    body = code * (size // 80) + "y" * (size % 80) + "\n"
    paper = Paper(Reply(f"```\n{body}```\nend", whole=True))
    parts = [p.source for s in paper.sheets for p in s.pieces if p.kind == "fence"]
    assert all("x" in part or "y" in part for part in parts)
    assert paper.code(1) == body


def test_a_longer_one_is_closed_and_opened_again() -> None:
    body = "".join(f"line_{i} = {i}\n" for i in range(1000))
    text = f"See:\n\n```python\n{body}```\n\nand\n\n```\nmore\n```"
    paper = Paper(Reply(text, whole=True))
    parts = [p for s in paper.sheets for p in s.pieces if "line_" in p.source]
    assert len(parts) > 3
    for part in parts:
        assert part.source.startswith("```python\n")
        assert part.source.endswith("\n```")
        assert part.source.count("```") == 2
    assert [p.continued for p in parts] == [False] + [True] * (len(parts) - 1)
    assert paper.code(1) == body
    assert paper.code(2) == "more\n"
    assert paper.code(3) is None
    assert paper.code(0) is None


def test_a_longer_one_in_a_list() -> None:
    body = "".join(f"    line_{i} = {i}\n" for i in range(600))
    text = f"1. See:\n   ```py\n   def f():\n{body}   ```\n   after\n2. next"
    made = Sheets(text, whole=True)
    seen = shown(made)
    assert [line for line in seen if line.startswith("line_")] == [
        f"line_{i} = {i}" for i in range(600)
    ]
    assert seen[-2:] == ["after", "2. next"]
    code = Paper(Reply(text, whole=True)).code(1)
    assert code is not None
    assert code.splitlines() == ["def f():"] + [f" line_{i} = {i}" for i in range(600)]


def test_a_long_list_goes_on_counting() -> None:
    text = "\n".join(f"1. item {i}\n   - about {i}" for i in range(1, 1001))
    made = Sheets(text, whole=True)
    assert len(made.sheets) > 3
    seen = [line for line in shown(made) if "item" in line]
    assert seen == [f"{i}. item {i}" for i in range(1, 1001)]


def test_a_long_table_repeats_its_head() -> None:
    head = "| name | n |\n|---|--:|\n"
    made = Sheets(head + "".join(f"| row | {i} |\n" for i in range(2000)), whole=True)
    parts = list(made.pieces())
    assert len(parts) > 3
    assert all(part.source.startswith(head) for part in parts)
    assert sum(part.source.count("| row") for part in parts) == 2000
    assert len(made.sheets) == len(parts)


@pytest.mark.parametrize("opening", ["", "```\n", "- "])
def test_a_line_without_end(opening: str) -> None:
    word = "".join(chr(97 + i % 26) for i in range(50_000))
    made = Sheets(opening)
    for at in range(0, len(word), 1000):
        made.append(word[at : at + 1000])
        assert max(len(p.source) for p in made.pieces()) <= LIMIT + 1010
    made.finish()
    assert max(sheet.size for sheet in made.sheets) <= LIMIT + 20
    letters = "".join(shown(made)).replace("•", "").replace(" ", "")
    assert "".join(c for c in letters if not c.isdigit()) == word


def test_code_blocks_are_counted_wherever_they_are() -> None:
    text = (
        "```a\n1\n```\n- x\n  ```b\n  2\n  ```\n> ```c\n> 3\n> ```\n\n"
        "1. ~~~d\n   4\n   ~~~\n\n    no fence\n\n```e\n5"
    )
    paper = Paper(Reply(text, whole=True))
    assert [paper.code(n) for n in range(1, 7)] == ["1\n", "2\n", "3\n", "4\n", "5", None]
    growing = Paper(Reply())
    for character in text:
        growing.append(character)
    assert [growing.code(n) for n in (1, 4, 5)] == ["1\n", "4\n", "5"]


def test_plain_text_in_sheets() -> None:
    text = "\n".join(f"# line {i}" for i in range(2000)) + "\n" + "x" * 9000
    sheets = plain(text)
    assert len(sheets) > 5
    assert max(sheet.size for sheet in sheets) <= LIMIT
    parts = [piece.source for sheet in sheets for piece in sheet.pieces]
    assert "\n".join(parts).replace("\n", "") == text.replace("\n", "")
    assert [s.pieces[0].source for s in plain("")] == [""]


def test_definitions_of_links() -> None:
    text = "[a]: http://a\n[b]: http://b\n\ntext\n[c]: no\n\n```\n[d]: no\n```\n\n> [e]\n"
    assert Sheets(text, whole=True).definitions == ["[a]: http://a", "[b]: http://b"]


def test_a_line_that_has_begun_is_shown() -> None:
    made = Sheets("a\n\n# He")
    assert [p.source.strip() for p in made.pieces()] == ["a", "# He"]
    before = list(made.pieces())[-1]
    made.append("ad")
    after = list(made.pieces())[-1]
    assert after is before  # so that it is not laid out as something new
    assert after.source == "# Head"
    assert after.open
