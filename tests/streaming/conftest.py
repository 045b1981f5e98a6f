"""Converted reference checkpoints, and the same model in memory and streamed."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.streaming.uncached import Uncached

from ..golden import REFERENCE

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where each test's counts of experts are; nothing of one warms the next one."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A checkpoint converted with a recipe, once: `folder("e4r4", "routed_down=bf16")`. With
    `chunk` its config says another chunk of attention than 32 tokens; not to be changed."""
    made: dict[tuple[object, ...], Path] = {}
    parent = tmp_path_factory.mktemp("converted")

    def make(recipe: str, *rules: str, mini: str = "maverick-mini", chunk: int = 32) -> Path:
        key = (mini, recipe, rules, chunk)
        if key not in made:
            out = parent / str(len(made)) / "model"
            if chunk == 32:
                out.parent.mkdir()
                convert(REFERENCE / mini, out, Recipe.parse(recipe, list(rules)), fast=True)
            else:
                source = make(recipe, *rules, mini=mini)
                out = parent / str(len(made)) / "model"
                shutil.copytree(source, out)
                config = json.loads((out / "config.json").read_text())
                config["text_config"]["attention_chunk_size"] = chunk
                (out / "config.json").write_text(json.dumps(config))
            made[key] = out
        return made[key]

    return make


@pytest.fixture(scope="session")
def e4r4(folder: Folder) -> Path:
    return folder("e4r4")


Gate = tuple[threading.Event, threading.Event]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Gate]]:
    """Stops the next read of an expert: an event that says that one has begun, and one that lets
    all go on."""
    waits, go = threading.Event(), threading.Event()
    read = Uncached.read

    def set_up() -> Gate:
        def held(self: Uncached, offset: int, view: memoryview) -> None:
            waits.set()
            assert go.wait(60)
            read(self, offset, view)

        monkeypatch.setattr(Uncached, "read", held)
        return waits, go

    yield set_up
    go.set()
