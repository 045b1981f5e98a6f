"""The first screen, as a person without a model meets it."""

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.app import App
from textual.pilot import Pilot

from mlx_maverick.errors import MaverickError, NotFound
from mlx_maverick.kv import DENSE, KVOptions
from mlx_maverick.tui.choices import Choices
from mlx_maverick.tui.start import survey
from mlx_maverick.tui.start.facts import Computer, Fact, Fit, Found, Prospect, Remark
from mlx_maverick.tui.start.welcome import Field, Look, WelcomeScreen, typed

from ..watched import Watched
from . import folders

MAC = Computer("this Mac with 128 GB", "M4 Max", 128 * 2**30, 115_427_246_080, 128_849_018_880)
STREAMED = Found(
    "/models/maverick-e4r6", "maverick-e4r6", "/models", 230_705_806_104, "e4r6", True,
    Fit.STREAMED, "about 4.6 tok/s",
)  # fmt: skip
SCOUT = Found(
    "owner/scout", "owner/scout", "the Hub's cache", 60 * 10**9, "4 bits", False, Fit.FITS,
    "at most 45 tok/s",
)  # fmt: skip
FP8 = Found(
    "/models/fp8", "fp8", "/models", 417 * 10**9, "FP8", True, Fit.SOURCE, "", "convert fp8"
)
BEST = Prospect(
    "maverick", "e2g128r4", Fit.RAISED, 118_451_895_064, 123_998_364_736, "at most 80 tok/s",
    "mlx-maverick convert maverick --recipe e2g128r4", "sudo sysctl iogpu.wired_limit_mb=118784",
)  # fmt: skip
MORE = Prospect(
    "maverick", "e4r6", Fit.STREAMED, 230_705_806_104, 115_427_246_080, "about 4.6 tok/s",
    "mlx-maverick convert maverick --recipe e4r6", "",
)  # fmt: skip
TOO_LARGE = Prospect("scout", "e2g128r4", Fit.NO, 0, 40 * 10**9, "", "", "")
ALL: tuple[Fact, ...] = (MAC, STREAMED, SCOUT, FP8, BEST, MORE, TOO_LARGE)
NO_CHOICE = object()


class Source:
    """Facts that come when a test says so; what was asked for."""

    def __init__(self, *facts: Fact, error: MaverickError | None = None, wait: bool = False):
        self.facts, self.error = facts, error
        self.asked: list[tuple[Any, ...]] = []
        self.more = asyncio.Event()
        self.wait, self.closed = wait, False

    async def __call__(
        self, asked: Sequence[str], context: int | None, kv: KVOptions
    ) -> AsyncGenerator[Fact, None]:
        self.asked.append((asked, context, kv))
        try:
            for fact in self.facts:
                yield fact
                if self.wait:
                    await self.more.wait()
                    self.more.clear()
            if self.error:
                raise self.error
        finally:
            self.closed = True


class Welcome(Watched):
    """The running screen, and what it was left with."""

    def __init__(self, app: App[None], pilot: Pilot[None], screen: WelcomeScreen):
        self.app, self.pilot, self.screen = app, pilot, screen
        self.result: Any = NO_CHOICE
        self.copied: list[str] = []

    @property
    def field(self) -> Field:
        return self.screen.query_one(Field)

    @property
    def marked(self) -> str:
        option = self.screen.query_one(Choices).highlighted_option
        return str(option.prompt).split("\n")[0] if option else ""

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def chosen(self) -> Any:
        await self.until(lambda: self.result is not NO_CHOICE)
        return self.result


@asynccontextmanager
async def opened(
    look: Look, size: tuple[int, int] = (100, 40), **options: Any
) -> AsyncIterator[Welcome]:
    app: App[None] = App()
    async with app.run_test(size=size) as pilot:
        screen = WelcomeScreen(look=look, **options)
        welcome = Welcome(app, pilot, screen)
        app.copy_to_clipboard = welcome.copied.append  # type: ignore[method-assign]
        await app.push_screen(screen, lambda result: setattr(welcome, "result", result))
        await pilot.pause()
        yield welcome


# What is shown.


async def test_it_is_there_at_once_and_fills_in_as_facts_come() -> None:
    source = Source(*ALL, wait=True)
    async with opened(source) as welcome:
        seen = welcome.seen()
        assert "looking …" in seen
        assert "owner/name from the Hub" in seen
        for text in ("This Mac with 128 GB, M4 Max", "maverick-e4r6", "owner/scout", "fp8"):
            await welcome.until(lambda text=text: text in welcome.seen())
            source.more.set()
        assert "a model may take 115.4 GB, or 128.8 GB with a raised GPU limit" in welcome.seen()
        for text in ("e2g128r4", "--recipe e4r6", "Scout is too large"):
            await welcome.until(lambda text=text: text in welcome.seen())
            source.more.set()
        await welcome.until(lambda: "looking" not in welcome.seen())


async def test_every_model_with_what_it_is_and_how_it_runs() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        seen = welcome.seen()
        for text in (
            "maverick-e4r6  /models",
            "230.7 GB · e4r6 · pictures · experts from the SSD, about 4.6 tok/s",
            "owner/scout  the Hub's cache",
            "60.0 GB · 4 bits · text only · fits, at most 45 tok/s",
            "417.0 GB · FP8 · pictures · has to be converted first",
            "Maverick as e2g128r4: 118.5 GB on disk, needs a raised GPU limit, at most 80 tok/s",
            "mlx-maverick convert maverick --recipe e2g128r4",
            "and, after each restart, sudo sysctl iogpu.wired_limit_mb=118784",
            "Scout is too large: the smallest, e2g128r4, needs 40.0 GB",
            "enter loads · ctrl+o copies · ctrl+r looks again",
        ):
            assert text in seen


async def test_nothing_found() -> None:
    async with opened(Source(MAC, TOO_LARGE)) as welcome:
        await welcome.until(lambda: "none found" in welcome.seen())
        assert welcome.marked == ""
        await welcome.press("enter", "down", "ctrl+o")
        assert "There is no command to copy." in welcome.seen()
        assert welcome.result is NO_CHOICE


async def test_remarks_are_shown_a_few_of_them() -> None:
    remarks = [Remark(f"[b]number {n}[/b]\x1b[31m\nis broken") for n in range(5)]
    async with opened(Source(MAC, *remarks)) as welcome:
        await welcome.until(lambda: "and 2 more" in welcome.seen())
        assert "[b]number 2[/b][31m is broken" in welcome.seen()
        assert "number 3" not in welcome.seen()


async def test_that_looking_fails_is_told_and_what_came_stays() -> None:
    source = Source(MAC, SCOUT, error=MaverickError("looking around failed: no MLX"))
    async with opened(source) as welcome:
        await welcome.until(lambda: "looking around failed: no MLX" in welcome.seen())
        assert "owner/scout" in welcome.seen()
        assert "looking …" not in welcome.seen()
        await welcome.press("enter")
        assert await welcome.chosen() == "owner/scout"


@pytest.mark.parametrize("width", [60, 100])
async def test_nothing_is_cut_off_on_the_right(width: int) -> None:
    async with opened(Source(*ALL), size=(width, 50)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        words = " ".join(welcome.seen().split())
        assert "experts from the SSD, about 4.6 tok/s" in words
        assert "mlx-maverick convert maverick --recipe e2g128r4" in words
        assert all(len(line) <= width for line in welcome.seen().splitlines())


async def test_names_are_never_markup() -> None:
    odd = Found("/m", "[red]x[/red]\x1b]0;t\x07\u202e", "[b]", 1, "[i]", True, Fit.FITS)
    async with opened(Source(MAC, odd)) as welcome:
        await welcome.until(lambda: "[red]x[/red]]0;t  [b]" in welcome.seen())
        assert "0.0 kB · [i]" in welcome.seen()


async def test_what_memory_is_reckoned_with_is_handed_on() -> None:
    source, kv = Source(MAC), KVOptions(8)
    async with opened(source, asked=["a", "b"], context=5000, kv=kv):
        assert source.asked == [(("a", "b"), 5000, kv)]


async def test_no_timer_runs_while_nothing_goes_on() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        running = [
            timer
            for node in (welcome.screen, *welcome.screen.walk_children())
            for timer in node._timers
            if timer._active.is_set()
        ]
        assert running == []


# What a person does.


async def test_enter_loads_the_marked_model() -> None:
    for presses, model in ((0, STREAMED.model), (1, SCOUT.model)):
        async with opened(Source(*ALL)) as welcome:
            await welcome.until(lambda: "Scout is too large" in welcome.seen())
            await welcome.press(*["down"] * presses, "enter")
            assert await welcome.chosen() == model


async def test_escape_leaves_without_one() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.press("escape")
        assert await welcome.chosen() is None


async def test_a_click_loads_a_model() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        lines = welcome.seen().splitlines()
        y = next(y for y, text in enumerate(lines) if text.strip().startswith("owner/scout"))
        await welcome.pilot.click(offset=(3, y))
        assert await welcome.chosen() == SCOUT.model


async def test_enter_copies_a_marked_command() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        await welcome.press("down", "down", "down", "down")
        assert welcome.marked.startswith("Maverick as e4r6")
        await welcome.press("enter")
        assert welcome.copied == [MORE.convert]
        assert f"Copied: {MORE.convert}" in welcome.seen()
        assert welcome.result is NO_CHOICE


async def test_ctrl_o_copies_the_command_of_what_is_marked_or_the_best() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.until(lambda: "Scout is too large" in welcome.seen())
        await welcome.press("ctrl+o", "down", "down", "ctrl+o", "down", "down", "ctrl+o")
        assert welcome.copied == [BEST.convert, FP8.command, MORE.convert]


async def test_a_format_to_convert_from_is_not_loaded() -> None:
    stuck = Found("/s", "stuck", "/", 1, "FP8", True, Fit.SOURCE)
    async with opened(Source(MAC, FP8, stuck)) as welcome:
        await welcome.until(lambda: "stuck" in welcome.seen())
        await welcome.press("enter")
        assert welcome.copied == ["convert fp8"]
        assert "It has to be converted first." in welcome.seen()
        await welcome.press("down", "enter")
        assert "too large for this machine then, too" in welcome.seen()
        assert welcome.result is NO_CHOICE


async def test_what_is_marked_stays_so_when_more_comes() -> None:
    source = Source(MAC, STREAMED, SCOUT, FP8, wait=True)
    async with opened(source) as welcome:
        source.more.set()
        await welcome.until(lambda: welcome.marked.startswith("maverick-e4r6"))
        source.more.set()
        await welcome.until(lambda: "owner/scout" in welcome.seen())
        assert welcome.marked.startswith("maverick-e4r6")
        await welcome.press("down")
        source.more.set()
        await welcome.until(lambda: "fp8" in welcome.seen())
        assert welcome.marked.startswith("owner/scout")


async def test_looking_again() -> None:
    source = Source(MAC)
    async with opened(source) as welcome:
        await welcome.until(lambda: "none found" in welcome.seen())
        source.facts = ALL
        await welcome.press("ctrl+r")
        await welcome.until(lambda: "owner/scout" in welcome.seen())
        assert len(source.asked) == 2
        assert "none found" not in welcome.seen()


async def test_leaving_ends_the_search() -> None:
    source = Source(*ALL, wait=True)
    async with opened(source) as welcome:
        await welcome.until(lambda: "This Mac" in welcome.seen())
        await welcome.press("escape")
        await welcome.until(lambda: source.closed)


async def test_many_models_scroll_with_the_keys() -> None:
    many = [Found(f"/m/{n}", f"model-{n:02}", "/m", 1, "e4r4", True, Fit.FITS) for n in range(40)]
    async with opened(Source(MAC, *many), size=(60, 20)) as welcome:
        await welcome.until(lambda: welcome.marked.startswith("model-00"))
        await welcome.press("pagedown", "pagedown", "down")
        assert welcome.marked.split()[0] in welcome.seen()
        assert "model-00" not in welcome.seen()
        await welcome.press("pageup", "pageup", "pageup")
        assert "model-00" in welcome.seen()


# What a person types.


async def test_a_repository_is_typed() -> None:
    async with opened(Source(*ALL)) as welcome:
        await welcome.press(*"owner/other", "enter")
        assert await welcome.chosen() == "owner/other"


async def test_a_folder_is_dropped_from_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    async with opened(Source(*ALL)) as welcome:
        await welcome.press("down")
        welcome.field.post_message(events.Paste(f"{shlex.quote(str(folder))} \nmore\x1b"))
        await welcome.until(lambda: welcome.field.value)
        await welcome.press("enter")
        assert await welcome.chosen() == str(folder)


async def test_what_cannot_be_a_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    async with opened(Source(*ALL)) as welcome:
        for text, reason in (("no such", "does not exist"), (str(file), "is a file")):
            welcome.field.value = text
            await welcome.press("enter")
            await welcome.until(lambda reason=reason: reason in welcome.seen())
        await welcome.press("x")
        await welcome.until(lambda: "is a file" not in welcome.seen())
        assert welcome.result is NO_CHOICE


async def test_pasted_control_characters_do_not_reach_the_terminal() -> None:
    async with opened(Source(*ALL)) as welcome:
        welcome.field.post_message(events.Paste("own\x1b[31mer\x07/model"))
        await welcome.until(lambda: welcome.field.value == "own[31mer/model")


def test_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a b's"
    folder.mkdir()
    for text in (
        str(folder), f" {folder}\n", "~/a b's", "a b's", shlex.quote(str(folder)),
        str(folder).replace(" ", "\\ ").replace("'", "\\'"), folder.as_uri(),
    ):  # fmt: skip
        assert typed(text) == str(folder), text
    assert typed("https://huggingface.co/owner/name.1/tree/main") == "owner/name.1"
    assert typed("owner/name") == "owner/name"
    (tmp_path / "demo").mkdir()
    assert typed("demo") == "demo"
    (tmp_path / "demo" / "config.json").touch()
    assert typed("demo") == str(tmp_path / "demo")
    for text in ("a/b/c", "/gone", "~nobody/x", "\0", "x" * 5000, "'open"):
        with pytest.raises(NotFound):
            typed(text)


# With the process that finds it all out.


async def test_this_machine_and_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.mini(tmp_path / "work" / "mini")
    folders.full_size(tmp_path / ".lmstudio/models/publisher/maverick", "e8r8")
    in_hub = folders.in_hub(tmp_path / "hub", "owner/model", folders.mini(tmp_path / "mini"))
    assert in_hub.is_dir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path / "work")
    async with opened(survey.facts) as welcome:
        await welcome.until(lambda: "What it can run" in welcome.seen())
        seen = welcome.seen()
        assert "looking at this machine" not in seen
        assert "a model may take" in seen
        assert "mini  ~/work" in seen
        assert "9.3 MB · BF16 · pictures · fits" in seen
        assert "427.5 GB · e8r8 · pictures ·" in seen
        await welcome.press("down", "down")
        assert welcome.marked.startswith("owner/model")
        await welcome.press("enter")
        assert await welcome.chosen() == "owner/model"


async def test_the_process_ends_with_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import time; print(\'{"kind": "Remark", "text": "greetings"}\', flush=True); '
    code += "time.sleep(1000)"
    monkeypatch.setattr(survey, "COMMAND", (sys.executable, "-c", code))
    started: list[int] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            started.append(self.pid)

    monkeypatch.setattr(survey, "Popen", Noted)
    async with opened(survey.facts) as welcome:
        await welcome.until(lambda: "greetings" in welcome.seen())
        await welcome.press("escape")
        await welcome.until(lambda: not _runs(started[0]))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_process_that_draws_loads_no_mlx(tmp_path: Path) -> None:
    """Not even while another one looks around."""
    code = """
import asyncio, sys
from textual.app import App
from mlx_maverick.errors import UsageError
from mlx_maverick.tui.start.trouble import Asked, TroubleScreen
from mlx_maverick.tui.start.welcome import WelcomeScreen

async def main():
    app = App()
    async with app.run_test() as pilot:
        welcome = WelcomeScreen()
        trouble = TroubleScreen(UsageError("x"), Asked("owner/gone"))
        await app.push_screen(welcome)
        await app.push_screen(trouble)
        while welcome._looking or trouble._ways is None:
            await asyncio.sleep(0.01)
        assert welcome._prospects and trouble._ways

asyncio.run(main())
print([m for m in ("mlx", "mlx.core", "huggingface_hub", "transformers") if m in sys.modules])
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120,
        cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


def test_defaults_are_those_of_loading() -> None:
    assert WelcomeScreen()._request == ((), None, DENSE)
