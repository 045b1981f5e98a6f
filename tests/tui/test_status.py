"""The status line fits any width and breaks no field."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.widgets import Static

from mlx_maverick.streaming.stats import ExpertStats
from mlx_maverick.tui.live import HISTORY, Field, Live, Phase, count, duration
from mlx_maverick.tui.status import Status, arrange

FULL = Live(
    phase=Phase.ANSWERING,
    pressure="critical",
    model=227_100_000_000,
    kv=1_600_000_000,
    prefilled=20_000,
    prompt=123_456,
    context_used=20_000,
    context=1_048_576,
    prefill_tps=1234.4,
    eta=84.2,
    queued=2,
    limit=240_000_000_000,
    history=(1,) * 17 + (2, 2, 3),
    unsaved=True,
    experts=ExpertStats(
        slots=10,
        experts=100,
        slab_bytes=100 * 10**9,
        hits=97,
        misses=3,
        bytes_read=11 * 10**9,
        read_seconds=2.0,
    ),
)
DECODING = replace(FULL, prefilled=123_456, context_used=123_500, tps=50.1, tps_average=48.24)
DENSE = replace(DECODING, unsaved=False, queued=0, experts=None, phase=Phase.READY)


def lines(live: Live, width: int) -> list[str]:
    status = Status()
    status.set_reactive(Status.live, live)
    said = status.lines(width)
    assert all(len(line) <= width for line in said)
    assert len(said) <= 2
    return said


def said(live: Live, width: int) -> list[str]:
    return re.split(" {2,}", "  ".join(lines(live, width)))


def test_all_of_it_where_there_is_room() -> None:
    assert said(FULL, 200) == [
        "● critical " + "▂" * 17 + "▅▅█",
        "not saved",
        "prompt 20,000/123,456 1,234 tok/s 84 s left",
        "2 queued",
        "context 20,000/1,048,576 (1 %)",
        "model 227.1 GB of 240.0 GB",
        "KV 1.6 GB",
        "expert hits 97 %",
        "SSD 5.5 GB/s",
        "experts 100.0 GB",
    ]
    assert "50.1 tok/s, average 48.2" in said(DECODING, 200)
    assert "prompt 123,456 at 1,234 tok/s" in said(DECODING, 200)
    assert "48.2 tok/s" in said(DENSE, 200)


def test_one_line_where_it_fits() -> None:
    whole = lines(DENSE, 1000)
    assert len(whole) == 1
    short = replace(DENSE, history=())
    needed = len(lines(short, 1000)[0])
    assert len(lines(short, needed)) == 1
    assert len(lines(short, needed - 1)) == 2


def test_sixty_columns() -> None:
    """Nothing that matters is left out; `Status` has a column of padding on either side."""
    saved = replace(FULL, unsaved=False)
    for live in (saved, DECODING, DENSE):
        text = "  ".join(lines(live, 58))
        for pattern in (
            r"● critical",
            r"(context|ctx) \d+ %|context \S+ \(\d+ %\)",
            r"model 227\.1(/| GB of )240\.0 GB",
            r"prompt 16 %.* 84 s" if live is saved else r"(50\.1|48\.2) tok/s",
        ):
            assert re.search(pattern, text), (pattern, text)
    assert re.search(r"not saved|unsaved", "  ".join(lines(FULL, 58)))
    assert {"hits 97 %", "SSD 5.5 GB/s", "KV 1.6 GB", "2 queued"} <= set(said(saved, 58))


@pytest.mark.parametrize("width", [20, 30, 40])
def test_what_is_left_of_it_in_a_narrow_one(width: int) -> None:
    """The most important first, whole or not at all."""
    known = {form for field in FULL.fields(HISTORY) for form in field.forms}
    known |= {form for field in FULL.fields(width // 8) for form in field.forms}
    shown = said(FULL, width)
    assert set(shown) <= known
    assert shown[0].startswith("● critical")
    if width >= 30:
        assert any(text.startswith("prompt 16 %") for text in shown)


fields = st.lists(
    st.lists(st.text("abc %", min_size=1, max_size=40), min_size=1, max_size=4).map(
        lambda forms: Field(tuple(sorted(forms, key=len, reverse=True)))
    ),
    max_size=8,
)


@given(fields, st.integers(1, 60), st.integers(1, 3))
def test_arranging(fields: list[Field], width: int, most: int) -> None:
    rows = arrange(fields, width, most)
    assert len(rows) <= most
    shown = [field for row in rows for field, _ in row]
    order = [next(i for i, f in enumerate(fields) if f is field) for field in shown]
    assert order == sorted(set(order))  # in order, and none twice
    for row in rows:
        assert row
        assert len("  ".join(text for _, text in row)) <= width
        assert all(text in field.forms for field, text in row)
    if len("  ".join(field.forms[0] for field in fields)) <= width and fields:
        assert [[text for _, text in row] for row in rows] == [[f.forms[0] for f in fields]]


def test_the_least_important_goes_first() -> None:
    first, second, third = (Field((name * 10, name)) for name in "abc")
    for width, expected in ((40, 3), (34, 3), (33, 2), (20, 1), (7, 0)):
        (row,) = arrange([first, second, third], width, 1)
        assert [len(text) for _, text in row].count(10) == expected
    (row,) = arrange([Field(("too wide by far",)), second, third], 5, 1)
    assert [text for _, text in row] == ["b", "c"]


def test_extras_go_before_anything_gets_too_short() -> None:
    main = Field(("aaaaaaaaaa", "aaaaaaaa", "aa"), least=1)
    extra = Field(("eeeeee", "eeee"), extra=True)
    for width, expected in (
        (18, [["aaaaaaaaaa", "eeeeee"]]),
        (17, [["aaaaaaaaaa", "eeee"]]),
        (14, [["aaaaaaaa", "eeee"]]),
        (13, [["aaaaaaaaaa"]]),
        (9, [["aaaaaaaa"]]),
        (7, [["aa"]]),
        (1, []),
    ):
        rows = arrange([main, extra], width, 1)
        assert [[text for _, text in row] for row in rows] == expected


def test_room_goes_to_what_matters_first() -> None:
    first, second = Field(("1",)), Field(("seconds", "second", "2"))
    extra = Field(("extra", "x"), extra=True)
    for width, expected in (
        (7, ["1", "2", "x"]),
        (11, ["1", "2", "extra"]),
        (12, ["1", "second", "x"]),
        (13, ["1", "seconds", "x"]),
        (16, ["1", "seconds", "x"]),
        (17, ["1", "seconds", "extra"]),
    ):
        (row,) = arrange([first, second, extra], width, 1)
        assert [text for _, text in row] == expected


def test_what_is_not_known_is_not_said() -> None:
    assert lines(Live(), 80) == ["loading"]
    assert said(Live(loaded=3, to_load=48, model=10**10), 80) == [
        "loading 3/48 layers",
        "model 10.0 GB",
    ]
    assert lines(Live(phase=Phase.ENDED), 80) == ["ended"]
    assert lines(Live(phase=Phase.READY), 80) == []
    assert lines(Live(phase=Phase.READY, prompt=9, prefilled=9), 80) == ["prompt 9"]
    starting = Live(phase=Phase.ANSWERING, prompt=900, prefilled=0)
    assert lines(starting, 80) == ["prompt 0/900"]
    assert lines(replace(starting, prefill_tps=0.3), 80) == ["prompt 0/900 0.30 tok/s"]
    assert lines(Live(phase=Phase.ANSWERING, tps=0.321), 80) == ["0.32 tok/s"]


def test_a_history_of_readings() -> None:
    live = Live(phase=Phase.READY)
    for pressure in ("normal", "warning", "critical", "unknown"):
        live = live.pressed(pressure)
    assert live.history == (1, 2, 3, 0)
    assert lines(live, 80) == ["● unknown ▂▅█·"]
    assert lines(live, 16) == ["● unknown █·"]
    for _ in range(2 * HISTORY):
        live = live.pressed("normal")
    assert live.history == (1,) * HISTORY


def test_words_for_numbers() -> None:
    assert [count(n) for n in (0, 999, 1000, 9949, 9950, 123_456, 999_499, 999_500, 1_048_576)] == [
        "0", "999", "1.0k", "9.9k", "10k", "123k", "999k", "1.00M", "1.05M",
    ]  # fmt: skip
    assert [duration(s) for s in (0.1, 84, 99.4, 100, 840, 5969, 6000, 36_000)] == [
        "1 s", "84 s", "99 s", "2 min", "14 min", "99 min", "1.7 h", "10.0 h",
    ]  # fmt: skip


class Host(App[None]):
    CSS = "Status { height: auto; }"

    def __init__(self) -> None:
        super().__init__()
        self.layouts = 0

    def compose(self) -> ComposeResult:
        yield Static("above")
        yield Status()

    def show(self, live: Live) -> None:
        self.query_one(Status).live = live


@pytest.fixture
def count_layouts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    layouts = 0
    refresh = Status.refresh

    def counted(self: Status, *regions: object, **options: object) -> Status:
        nonlocal layouts
        layouts += bool(options.get("layout"))
        return refresh(self, *regions, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Status, "refresh", counted)
    return lambda: layouts


async def test_numbers_alone_do_not_lay_the_screen_out(count_layouts: Callable[[], int]) -> None:
    app = Host()
    async with app.run_test(size=(80, 10)) as pilot:
        app.show(DECODING)
        await pilot.pause()
        status = app.query_one(Status)
        assert status.size.height == 2
        before = count_layouts()
        for tps in (50.2, 9.9, 123.4):
            app.show(replace(DECODING, tps=tps))
            await pilot.pause()
            assert f"{tps:.1f} tok/s" in str(status.render())
        assert count_layouts() == before
        # What needs one line less does not make the text above jump while a reply comes.
        less = Live(phase=Phase.ANSWERING, pressure="normal", tps=5)
        assert len(lines(less, 80)) == 1
        app.show(less)
        await pilot.pause()
        assert status.size.height == 2
        app.show(Live(phase=Phase.READY, pressure="normal"))
        await pilot.pause()
        assert status.size.height == 1
        await pilot.resize_terminal(300, 10)
        app.show(FULL)
        await pilot.pause()
        assert status.size.height == 1
        await pilot.resize_terminal(60, 10)
        await pilot.pause()
        assert status.size.height == 2


async def test_levels_have_colours() -> None:
    app = Host()
    async with app.run_test(size=(200, 10)) as pilot:
        app.show(replace(DENSE, pressure="normal", history=(1, 3), context_used=1_000_000))
        await pilot.pause()
        content = app.query_one(Status).render()
        spans = {content.plain[s.start : s.end]: str(s.style) for s in content.spans}
        assert spans["● normal ▂█"] == "$success"
        assert spans["█"] == "$error bold"
        assert spans["context 1,000,000/1,048,576 (95 %)"] == "$warning"
