"""Models on a machine: where they are looked for, what is told of them, how they run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from mlx_maverick import files, hub, macs
from mlx_maverick.convert import convert
from mlx_maverick.errors import BadCheckpoint
from mlx_maverick.kv import KVOptions
from mlx_maverick.macs import GIB, Machine
from mlx_maverick.published_models import MODELS
from mlx_maverick.tui.start import found, judge
from mlx_maverick.tui.start.facts import (
    Computer,
    Fact,
    Fit,
    Found,
    Prospect,
    Remark,
    decode,
    encode,
)
from mlx_maverick.tui.start.judge import Here

from . import folders


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Someone whose only model is the one that comes with the package, in a folder with nothing
    in it."""
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.chdir(home / "work")
    return home


@pytest.fixture
def home(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Someone who has not even that."""
    monkeypatch.setattr(hub, "DEMO_FOLDER", user / "not shipped")
    return user


def models(*asked: str) -> list[Found]:
    """What is found; fails if there is something to remark."""
    facts = list(found.models(asked))
    assert all(isinstance(fact, Found) for fact in facts), facts
    return [fact for fact in facts if isinstance(fact, Found)]


def names(facts: Iterable[Fact]) -> list[str]:
    return [fact.name for fact in facts if isinstance(fact, Found)]


def remarks(*asked: str) -> list[str]:
    return [fact.text for fact in found.models(asked) if isinstance(fact, Remark)]


# Where.


def test_the_one_that_comes_with_the_package_is_found_last_and_once(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.mini(user / "work" / "mini")
    assert [m.model for m in models()] == [str(user / "work" / "mini"), "demo"]
    shipped = models("demo", str(hub.DEMO_FOLDER))
    assert [m.model for m in shipped] == ["demo", str(user / "work" / "mini")]
    assert (shipped[0].name, shipped[0].where) == ("demo", "comes with mlx-maverick")
    assert (shipped[0].bits, shipped[0].vision) == ("BF16", True)
    monkeypatch.setattr(found, "MOST_FOLDERS", 0)
    facts = list(found.models())  # however early the search ends
    assert [fact.model for fact in facts if isinstance(fact, Found)] == ["demo"]


def test_a_model_in_a_folder_of_that_name_is_another(user: Path) -> None:
    folders.mini(user / "work" / "demo")
    assert [m.model for m in models()] == [str(user / "work" / "demo"), str(hub.DEMO_FOLDER)]


def test_nothing_is_found_where_nothing_is(home: Path) -> None:
    assert models() == []


def test_the_current_folder_and_those_in_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.mini(home / "work" / "mini")
    assert [one.model for one in models()] == [str(home / "work" / "mini")]
    monkeypatch.chdir(home / "work" / "mini")
    assert [(one.model, one.name) for one in models()] == [(str(home / "work" / "mini"), "mini")]


def test_folders_below_those_are_not_looked_at(home: Path) -> None:
    folders.mini(home / "work" / "deep" / "mini")
    assert models() == []


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studio(home: Path, place: str) -> None:
    folder = folders.mini(home / place / "publisher" / "mini")
    (one,) = models()
    assert one.model == str(folder)
    assert one.where == f"~/{place}/publisher"


def test_the_hubs_cache_by_the_name_that_loads(home: Path) -> None:
    snapshot = folders.in_hub(home / "hub", "owner/some-model.1", folders.mini(home / "mini"))
    (one,) = models()
    assert one.model == one.name == "owner/some-model.1"
    assert one.where == "the Hub's cache"
    assert judge.hub.resolve(one.model) == snapshot


def test_those_asked_for_come_first_and_only_once(home: Path) -> None:
    folders.mini(home / "work" / "a")
    recent = folders.mini(home / "work" / "b")
    elsewhere = folders.mini(home / "other")
    (home / "work" / "c").symlink_to(elsewhere)
    in_hub = folders.in_hub(home / "hub", "owner/model", folders.mini(home / "mini"))
    (home / "work" / "d").symlink_to(in_hub)
    wanted = ["owner/model", "~/other", str(recent), str(recent)]
    assert names(models(*wanted)) == ["owner/model", "other", "b", "a"]


def test_one_asked_for_that_is_gone_is_told(home: Path) -> None:
    text, other = remarks(str(home / "gone"), "owner/gone")
    assert "gone does not exist" in text
    assert "owner/gone is not in the Hub's cache any more" in other


def test_a_folder_that_was_deleted_is_no_place_to_look(home: Path) -> None:
    os.rmdir(home / "work")
    folders.mini(home / ".lmstudio/models/p/mini")
    assert names(models()) == ["mini"]


# What is no model, or none to use.


def _config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)


def test_what_is_no_llama_4_is_left_out(home: Path) -> None:
    work = home / "work"
    _config(folders.mini(work / "llama3"), '{"model_type": "llama"}')
    _config(folders.mini(work / "list"), "[]")
    _config(folders.mini(work / "text"), "no json")
    _config(folders.mini(work / "nested"), "[" * 100_000)
    _config(folders.mini(work / "huge"), " " * (found.MOST_CONFIG + 1))
    (folders.mini(work / "none") / "config.json").unlink()
    (folders.mini(work / "pipe") / "config.json").unlink()
    os.mkfifo(work / "pipe" / "config.json")  # reading it would never end
    for file in folders.mini(work / "weightless").glob("model*"):
        file.unlink()
    folders.mini(work / ".hidden")
    folders.mini(work / "mini-e4r4.partial")
    (work / "loop").symlink_to(work / "loop")
    (work / "file").write_text("")
    assert models() == []


def test_a_broken_one_is_told_and_left_out(home: Path) -> None:
    work = home / "work"
    (folders.mini(work / "lacking") / "model-00002-of-00004.safetensors").unlink()
    with open(folders.mini(work / "short") / "model-00004-of-00004.safetensors", "r+b") as file:
        file.truncate(1000)
    raw = json.loads((folders.mini(work / "odd") / "config.json").read_text())
    raw["text_config"]["hidden_size"] = -1
    _config(work / "odd", json.dumps(raw))
    folders.mini(work / "well")
    assert names(found.models()) == ["well"]
    lacking, odd, short = remarks()
    assert "lacking cannot be used" in lacking
    assert "is missing" in lacking
    assert "hidden_size is -1" in odd
    assert "short cannot be used" in short


def test_the_search_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcdef":
        folders.mini(home / "work" / name)
    monkeypatch.setattr(found, "MOST_MODELS", 2)
    assert names(found.models()) == ["a", "b"]
    assert remarks() == ["the search ended after 2 models"]
    monkeypatch.setattr(found, "MOST_FOLDERS", 3)
    assert "after 3 files and folders" in remarks()[0]
    ticks = iter([0.0, 1.0, *[99.0] * 100])
    facts = list(found.models(["a"], clock=lambda: next(ticks)))
    assert names(facts) == ["a"]
    assert facts[1:] == [Remark("the search ended after 15 seconds")]


# What is told.


def test_what_a_model_is(home: Path) -> None:
    work = home / "work"
    convert(folders.mini(home / "mini"), work / "own", "e4r4", fast=True)
    folders.full_size(work / "other", "e4r6", named=False)
    folders.source(work / "published", "BF16")
    folders.source(work / "fp8", "compressed")
    told = {one.name: (one.bits, one.vision) for one in models()}
    assert told == {
        "own": ("e4r4", True),
        "other": ("4 bits", True),
        "published": ("BF16", True),
        "fp8": ("FP8", True),
    }
    sizes = {one.name: one.disk for one in models()}
    assert sizes["published"] == 803_166_302_208 or round(sizes["published"] / 1e9, 1) == 803.2
    assert round(sizes["other"] / 1e9, 1) == 230.7


def test_one_without_a_vision_tower_has_text_only(home: Path) -> None:
    folder = folders.mini(home / "work" / "mini")
    raw = json.loads((folder / "config.json").read_text())
    del raw["vision_config"]
    _config(folder, json.dumps(raw))
    assert [one.vision for one in models()] == [False]


def test_no_weight_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders.mini(home / "work" / "mini")
    read: dict[str, int] = {}
    usual = files.Folder.read

    def noted(self: files.Folder, name: str, offset: int, buffer: memoryview) -> None:
        read[name] = max(read.get(name, 0), offset + len(buffer))
        usual(self, name, offset, buffer)

    monkeypatch.setattr(files.Folder, "read", noted)
    (one,) = models()
    judge.judged(one, Here(macs.mac(128 * GIB), 2))
    assert read
    for name, end in read.items():
        if name.endswith(".safetensors"):
            assert end == 8 + int.from_bytes((folder / name).read_bytes()[:8], "little")


# How they run.


def run(folder: Path, gib: int, element: int = 2, context: int | None = None) -> Found:
    one = found.describe(str(folder), folder.name, folder)
    return judge.judged(one, Here(macs.mac(gib * GIB), element), context)


def test_how_a_model_runs_on_a_mac(home: Path) -> None:
    e4r6 = folders.full_size(home / "e4r6", "e4r6")
    fits = run(e4r6, 512)
    assert (fits.fit, fits.command) == (Fit.FITS, "")
    assert fits.speed.startswith("at most ")
    streamed = run(e4r6, 128)
    assert (streamed.fit, streamed.speed, streamed.command) == (
        Fit.STREAMED, "about 4.6 tok/s", ""
    )  # fmt: skip
    assert run(e4r6, 24).fit is Fit.RAISED  # then streamed
    assert run(e4r6, 16).fit is Fit.NO


def test_a_raised_limit_is_told_where_it_is_enough(home: Path) -> None:
    one = run(folders.full_size(home / "e3", "e3g128r6"), 192)
    assert one.fit is Fit.STREAMED
    assert one.command == "sudo sysctl iogpu.wired_limit_mb=167936"
    published = folders.source(home / "bf16", "BF16")  # can not be streamed
    machine = Machine("a Mac", 900 * GIB, 700 * GIB, 880 * GIB, None, None, ())
    one = found.describe("bf16", "bf16", published)
    here = Here(machine, 2)
    raised = judge.judged(judge.replace(one, model=str(published)), here)
    assert raised.fit is Fit.RAISED
    assert raised.command.startswith("sudo sysctl")


def test_what_is_too_large_or_no_format_to_run_is_to_be_converted(home: Path) -> None:
    published = folders.source(home / "the bf16", "BF16")
    assert run(published, 128).fit is Fit.NO
    fp8 = run(folders.source(home / "fp8", "compressed"), 512)
    assert fp8.fit is Fit.SOURCE
    assert fp8.command == f"mlx-maverick convert {home}/fp8 --recipe e8r8"
    recipe = judge.sizing.choose(MODELS["maverick"].config, macs.mac(128 * GIB)).recipe.name
    assert run(published, 128).command == (
        f"mlx-maverick convert '{home}/the bf16' --recipe {recipe}"
    )
    assert run(published, 16).command == ""


def test_the_context_and_the_cache_of_settings_count(home: Path) -> None:
    e4r6 = folders.full_size(home / "e4r6", "e4r6")
    machine = Machine("a Mac", 512 * GIB, 240 * 10**9, 240 * 10**9, None, None, ())
    one = found.describe(str(e4r6), "e4r6", e4r6)
    here = Here(machine, 2)
    assert judge.judged(one, here).fit is Fit.FITS
    assert judge.judged(one, here, 120_000).fit is Fit.STREAMED
    assert judge.judged(one, here, 120_000, KVOptions(4)).fit is Fit.FITS
    assert judge.judged(one, here, 10**9).fit is Fit.STREAMED  # of what the model has


# What to get.


@pytest.mark.parametrize(
    ("gib", "recipes"),
    [
        (16, [("e2g128r4", Fit.NO)]),
        (64, [("e4r6", Fit.STREAMED)]),
        (128, [("e2g128r4", Fit.RAISED), ("e4r6", Fit.STREAMED)]),
        (512, [("e8r8", Fit.FITS)]),
    ],
)
def test_prospects_are_what_plan_advises(gib: int, recipes: list[tuple[str, Fit]]) -> None:
    model, machine = MODELS["maverick"], macs.mac(gib * GIB)
    told = list(judge.prospects(model, Here(machine, 2)))
    assert [(one.recipe, one.fit) for one in told] == recipes
    for one in told:
        if one.fit is Fit.NO:
            assert one.convert == one.speed == ""
        else:
            assert one.convert == f"mlx-maverick convert {model.repo} --recipe {one.recipe}"
            assert "tok/s" in one.speed
        assert bool(one.sysctl) == (one.fit is Fit.RAISED)
    if gib > 16:
        chosen = judge.sizing.choose(model.config, machine)
        assert (told[0].recipe, told[0].sysctl) == (chosen.recipe.name, chosen.command or "")


# As a process.


def test_facts_cross_as_lines() -> None:
    facts: list[Fact] = [
        Computer("a Mac", None, 1, 2, 3),
        Found("a\nb", "\udcff", "", 1, "", False),
        Found("a", "b", "c", 1, "e4r4", True, Fit.STREAMED, "fast", "do"),
        Prospect("scout", "e4r4", Fit.NO, 0, 1, "", "", ""),
        Remark("text"),
    ]
    lines = [encode(fact) for fact in facts]
    assert not any("\n" in line for line in lines)
    assert [decode(line) for line in lines] == facts


def test_finding_loads_neither_mlx_nor_textual() -> None:
    code = (
        "import sys, mlx_maverick.tui.start.found as f, mlx_maverick.tui.start.survey;"
        "list(f.models());"
        "print([m for m in ('mlx.core', 'textual', 'numpy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_a_machine_without_mlx_still_tells_what_it_has(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.mini(home / "work" / "mini")
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    facts = list(judge.facts([]))
    assert isinstance(facts[0], Computer)
    assert any(isinstance(f, Remark) and "MLX cannot be loaded" in f.text for f in facts)
    assert [f.fit for f in facts if isinstance(f, Found)] == [None]
    assert any(isinstance(f, Prospect) for f in facts)


def test_one_that_cannot_be_judged_is_still_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.mini(home / "work" / "mini")

    def refuse(*_: object) -> Found:
        raise BadCheckpoint("it went away")

    monkeypatch.setattr(judge, "judged", refuse)
    facts = list(judge.facts([]))
    assert names(facts) == ["mini"]
    assert Remark("mini: it went away") in facts
