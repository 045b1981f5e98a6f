"""A model that cannot be loaded: which ways out there are, and how one is chosen."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from textual.app import App
from textual.pilot import Pilot

from mlx_maverick import macs, memory
from mlx_maverick.convert import convert
from mlx_maverick.errors import (
    BadCheckpoint,
    DoesNotFit,
    MaverickError,
    NotFound,
    UsageError,
)
from mlx_maverick.kv import KVOptions
from mlx_maverick.loading import Unread
from mlx_maverick.macs import GIB, Machine
from mlx_maverick.streaming.options import ExpertOptions, Mode
from mlx_maverick.tui.choices import Choices
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.start import judge, survey
from mlx_maverick.tui.start.judge import Here
from mlx_maverick.tui.start.trouble import TroubleScreen
from mlx_maverick.tui.start.ways import Asked, Kind, Way

from ..conftest import SECONDS
from . import folders

RESIDENT = ExpertOptions(Mode.RESIDENT)


def ways(asked: Asked, gib: int) -> list[Way]:
    return judge.ways(asked, Here(macs.mac(gib * GIB), 2))


@pytest.fixture(scope="module")
def e4r6(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(folders.full_size(tmp_path_factory.mktemp("full") / "e4r6", "e4r6"))


# Which there are.


def test_a_model_that_can_be_loaded_needs_none(e4r6: str) -> None:
    assert ways(Asked(e4r6), 512) == []
    assert ways(Asked(e4r6), 128) == []  # streamed, as it is not said otherwise


def test_a_context_too_long_is_shortened_to_the_longest_that_fits(e4r6: str) -> None:
    asked = Asked(e4r6, 1_000_000)
    context, bits = ways(asked, 64)
    assert (context.kind, bits) == (Kind.CONTEXT, Way(Kind.KV_BITS, 8))
    longest = context.value
    assert isinstance(longest, int)
    assert ways(Asked(e4r6, longest), 64) == []
    assert ways(Asked(e4r6, longest + 256), 64)[0] == context
    assert ways(bits.applied(asked), 64) == []


def test_experts_that_were_to_be_in_memory_can_be_streamed(e4r6: str, tmp_path: Path) -> None:
    assert ways(Asked(e4r6, experts=RESIDENT), 128) == [Way(Kind.STREAM)]
    e3 = str(folders.full_size(tmp_path / "e3", "e3g128r6"))
    raise_limit = Way(Kind.COPY, "sudo sysctl iogpu.wired_limit_mb=167936")
    assert ways(Asked(e3, experts=RESIDENT), 192) == [Way(Kind.STREAM), raise_limit]


def test_streaming_and_a_shorter_context_where_it_takes_both(e4r6: str) -> None:
    asked = Asked(e4r6, 1_000_000, experts=RESIDENT)
    (way,) = (one for one in ways(asked, 64) if one.kind is Kind.STREAM)
    assert isinstance(way.value, int)
    assert ways(way.applied(asked), 64) == []
    assert way.applied(asked).experts.mode is Mode.STREAM


def test_streaming_is_no_way_where_more_fits_without(tmp_path: Path) -> None:
    """Of a tiny model what a prompt holds while it is streamed is more than its experts."""
    source = folders.mini(tmp_path / "mini")
    asked = Asked(str(convert(source, tmp_path / "e4r4", "e4r4", fast=True).folder))
    here = Here(Machine("a machine", 50 * 10**6, 50 * 10**6, 50 * 10**6, None, None, ()), 4)
    for experts in (ExpertOptions(), RESIDENT):
        assert judge.ways(replace(asked, experts=experts), here) == [Way(Kind.CONTEXT, 12_032)]


def test_memory_for_experts_that_is_too_much_or_too_little(e4r6: str) -> None:
    for size in ("200GB", "1MB"):
        asked = Asked(e4r6, experts=ExpertOptions.of(memory=size))
        assert ways(asked, 128) == [Way(Kind.STREAM)]


def test_options_that_the_model_does_not_allow(tmp_path: Path) -> None:
    folder = folders.mini(tmp_path / "mini")
    most = 1_048_576
    assert ways(Asked(str(folder), most + 1), 128) == [Way(Kind.CONTEXT, most)]
    assert ways(Asked(str(folder), 1), 128) == [Way(Kind.CONTEXT, 32768)]
    raw = json.loads((folder / "config.json").read_text())
    raw["text_config"] |= {"moe_layers": [], "head_dim": 48}
    (folder / "config.json").write_text(json.dumps(raw))
    stream = ExpertOptions(Mode.STREAM)
    assert ways(Asked(str(folder), experts=stream), 128) == [Way(Kind.AUTO)]
    assert ways(Asked(str(folder), kv=KVOptions(8)), 128) == [Way(Kind.KV_BITS)]


def test_what_has_to_be_had_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert ways(Asked("nobody/nothing"), 128) == [Way(Kind.COPY, "hf download nobody/nothing")]
    with pytest.raises(NotFound):
        ways(Asked(str(tmp_path / "gone")), 128)
    for form in ("BF16", "compressed"):
        folder = folders.source(tmp_path / form, form)
        (way,) = ways(Asked(str(folder)), 512)
        assert way == Way(Kind.COPY, f"mlx-maverick convert {folder} --recipe e8r8")


def test_nothing_helps_a_machine_that_is_too_small(e4r6: str) -> None:
    assert ways(Asked(e4r6), 16) == []


def test_loading_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What loading refuses it takes with every way that is offered."""
    e4r6 = folders.full_size(tmp_path / "e4r6", "e4r6")
    for file in folders.mini(tmp_path / "mini").iterdir():
        if file.name != "config.json" and not file.name.startswith("model"):
            shutil.copy(file, e4r6)  # the tokenizer
    monkeypatch.setattr("mlx.core.get_active_memory", lambda: 0)  # what other tests have loaded
    tried, refused = set(), 0
    for limit in (50, 80, 235):  # GB
        size = limit * 10**9
        monkeypatch.setattr(memory, "machine_limit", lambda size=size: size)
        here = Here(Machine("a machine", size, size, size, None, None, ()), 2)
        for context in (None, 900_000):
            for experts in (ExpertOptions(), RESIDENT):
                asked = Asked(str(e4r6), context, experts=experts)
                found = judge.ways(asked, here)
                if opens(asked):
                    assert found == []
                    continue
                refused += 1
                tried |= {(way.kind, way.value is None) for way in found}
                for way in found:
                    assert way.kind is Kind.COPY or opens(way.applied(asked)), (limit, asked, way)
    assert refused == 7
    assert {(Kind.CONTEXT, False), (Kind.KV_BITS, False), (Kind.STREAM, True)} <= tried


def opens(asked: Asked) -> bool:
    try:
        Unread.open(asked.model, asked.context, mx.bfloat16, asked.kv, asked.experts)
    except DoesNotFit:
        return False
    return True


# What one changes.


def test_a_way_changes_what_was_asked_and_settings_alike() -> None:
    kv = KVOptions(8, start=100, max_size=1000)
    for way, changed in {
        Way(Kind.CONTEXT, 5): {"context": 5},
        Way(Kind.STREAM): {"experts": ExpertOptions(Mode.STREAM)},
        Way(Kind.STREAM, 7): {"experts": ExpertOptions(Mode.STREAM), "context": 7},
        Way(Kind.AUTO): {"experts": ExpertOptions()},
        Way(Kind.KV_BITS, 4): {"kv": KVOptions(4, 100, 1000)},
        Way(Kind.KV_BITS): {"kv": KVOptions(max_size=1000)},
        Way(Kind.AGAIN): {},
        Way(Kind.COPY, "x"): {},
    }.items():
        asked = Asked("model", 3, kv, RESIDENT)
        assert way.applied(asked) == replace(asked, **changed)
        options = Settings("model", context=3, kv=kv, experts=RESIDENT)
        assert replace(options, **way.changes(kv)) == replace(options, **changed)
        assert way.words


# The screen.


Find = Callable[[Asked], Awaitable[list[Way]]]
NO_CHOICE = object()


class Trouble:
    """The running screen, and what it was left with."""

    def __init__(self, pilot: Pilot[None], screen: TroubleScreen):
        self.pilot, self.screen = pilot, screen
        self.result: Any = NO_CHOICE
        self.copied: list[str] = []

    @property
    def choices(self) -> list[str]:
        options = self.screen.query_one(Choices).options
        return [str(option.prompt) for option in options if not option.disabled]

    @property
    def marked(self) -> str | None:
        option = self.screen.query_one(Choices).highlighted_option
        return str(option.prompt) if option else None

    def seen(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(s.text for s in strip).rstrip() for strip in strips)

    async def until(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < end, self.seen()
            await asyncio.sleep(0.01)
        await self.pilot.pause()


@asynccontextmanager
async def opened(
    error: MaverickError,
    find: Find = survey.ways,
    asked: Asked | None = None,
    size: tuple[int, int] = (80, 30),
) -> AsyncIterator[Trouble]:
    app: App[None] = App()
    async with app.run_test(size=size) as pilot:
        screen = TroubleScreen(error, asked or Asked("model"), find)
        trouble = Trouble(pilot, screen)
        app.copy_to_clipboard = trouble.copied.append  # type: ignore[method-assign]
        await app.push_screen(screen, lambda result: setattr(trouble, "result", result))
        await pilot.pause()
        yield trouble


def answers(*found: Way) -> Find:
    async def find(asked: Asked) -> list[Way]:
        return list(found)

    return find


ALWAYS = ["Try again", "Choose another model", "Quit"]


async def test_the_ways_can_be_chosen_the_best_first() -> None:
    found = answers(Way(Kind.STREAM), Way(Kind.CONTEXT, 12_288), Way(Kind.KV_BITS, 8))
    for presses, way in (
        (0, Way(Kind.STREAM)),
        (1, Way(Kind.CONTEXT, 12_288)),
        (2, Way(Kind.KV_BITS, 8)),
        (3, Way(Kind.AGAIN)),
        (4, Way(Kind.ANOTHER)),
        (5, Way(Kind.QUIT)),
    ):
        async with opened(DoesNotFit("model needs 5 GB; use less"), found) as trouble:
            await trouble.until(lambda: len(trouble.choices) == 6)
            assert "model needs 5 GB; use less" in trouble.seen()
            assert "context of 12,288 tokens" in trouble.seen()
            await trouble.pilot.press(*["down"] * presses, "enter")
            await trouble.until(lambda: trouble.result is not NO_CHOICE)
            assert trouble.result == way


async def test_escape_chooses_nothing() -> None:
    async with opened(DoesNotFit("no"), answers()) as trouble:
        await trouble.pilot.press("escape")
        await trouble.until(lambda: trouble.result is not NO_CHOICE)
        assert trouble.result is None


async def test_what_is_marked_stays_so_when_more_comes() -> None:
    come = asyncio.Event()

    async def find(asked: Asked) -> list[Way]:
        await come.wait()
        return [Way(Kind.STREAM)]

    async with opened(DoesNotFit("no"), find) as trouble:
        assert trouble.choices == ALWAYS
        assert "reckoning" in trouble.seen()
        assert trouble.marked is None
        await trouble.pilot.press("enter")  # too early for anything
        await trouble.pilot.press("down", "down")
        assert trouble.marked == "Choose another model"
        come.set()
        await trouble.until(lambda: len(trouble.choices) == 4)
        assert trouble.marked == "Choose another model"
        assert "reckoning" not in trouble.seen()
        assert trouble.result is NO_CHOICE


async def test_the_best_is_marked_once_it_is_known() -> None:
    async with opened(NotFound("no"), answers(Way(Kind.STREAM))) as trouble:
        await trouble.until(lambda: trouble.marked == "Stream the experts from the SSD")


async def test_a_command_is_copied_and_the_screen_stays() -> None:
    command = "sudo sysctl iogpu.wired_limit_mb=118784"
    async with opened(DoesNotFit("no"), answers(Way(Kind.COPY, command))) as trouble:
        await trouble.until(lambda: len(trouble.choices) == 4)
        await trouble.pilot.press("enter")
        await trouble.until(lambda: "then try again" in trouble.seen())
        assert trouble.copied == [command]
        assert trouble.result is NO_CHOICE
        await trouble.pilot.press("enter")
        await trouble.until(lambda: trouble.result is not NO_CHOICE)
        assert trouble.result == Way(Kind.AGAIN)


async def test_of_a_process_that_died_nothing_is_reckoned() -> None:
    async def find(asked: Asked) -> list[Way]:
        raise AssertionError("nobody asked")

    async with opened(MaverickError("the model's process died"), find) as trouble:
        await trouble.until(lambda: trouble.marked == "Try again")
        assert trouble.choices == ALWAYS


@pytest.mark.parametrize("kind", [DoesNotFit, UsageError, NotFound, BadCheckpoint])
async def test_that_it_cannot_be_reckoned_is_told(kind: type[MaverickError]) -> None:
    async def find(asked: Asked) -> list[Way]:
        raise MaverickError("looking around [b]failed[/b]\x1b[31m")

    async with opened(kind("no"), find) as trouble:
        await trouble.until(lambda: "looking around [b]failed[/b][31m" in trouble.seen())
        assert trouble.choices == ALWAYS


@pytest.mark.parametrize("size", [(60, 16), (60, 24), (100, 30)])
async def test_all_is_readable_in_a_small_terminal(size: tuple[int, int]) -> None:
    error = DoesNotFit("[red]model[/red] \x1b]0;x\x07" + "needs much more memory " * 20 + "END")
    found = answers(Way(Kind.CONTEXT, 9), Way(Kind.COPY, "sudo " + "x" * 40))
    async with opened(error, found, size=size) as trouble:
        await trouble.until(lambda: len(trouble.choices) == 5)
        assert "[red]model[/red] ]0;x" in trouble.seen()
        for _ in range(4):
            await trouble.pilot.press("down")
        await trouble.until(lambda: "│ Quit" in trouble.seen())
        await trouble.pilot.press("shift+tab", "end")  # to the message, and to its end
        await trouble.until(lambda: "END" in trouble.seen())


async def test_ways_come_from_a_process_of_their_own(tmp_path: Path) -> None:
    folder = folders.mini(tmp_path / "mini")
    asked = Asked(str(folder), 2_000_000, KVOptions(8), RESIDENT)
    async with opened(UsageError("too long"), asked=asked) as trouble:
        await trouble.until(lambda: "Use a context of 1,048,576 tokens" in trouble.choices)


async def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(MaverickError, match=r"looking around failed: .*gone does not exist"):
        await survey.ways(Asked(str(tmp_path / "gone")))


async def test_a_process_that_never_answers_is_given_up() -> None:
    sleeper = (sys.executable, "-c", "import time; time.sleep(1000)")
    with pytest.raises(MaverickError, match="took more than 0 seconds"):
        async for _ in survey._answers({}, sleeper, seconds=0.05):
            raise AssertionError("it says nothing")
    with pytest.raises(MaverickError, match="no process can be started"):
        async for _ in survey._answers({}, ("/no/such/program",)):
            raise AssertionError("it says nothing")


def test_a_request_that_is_none_is_refused() -> None:
    command = [*survey.COMMAND, '{"do": "something"}']
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 1
    assert "a request is to find models or ways" in said.stderr


async def test_one_reason_is_told_once() -> None:
    async def find(asked: Asked) -> list[Way]:
        raise MaverickError("looking around failed: there are no weights; see a log")

    async with opened(BadCheckpoint("there are no weights"), find) as trouble:
        await trouble.until(lambda: trouble.marked == "Try again")
        await trouble.until(lambda: "reckoning" not in trouble.seen())
        assert "looking around failed" not in trouble.seen()
        assert "there are no weights" in trouble.seen()
