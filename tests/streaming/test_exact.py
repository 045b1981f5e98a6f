"""A model whose experts are streamed says, to the bit, what it says with all of them in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick import engine
from mlx_maverick.events import Finished, Token, collect
from mlx_maverick.maverick import Maverick
from mlx_maverick.session import Session
from mlx_maverick.streaming.places import LayerPlaces

from ..golden import REFERENCE
from .conftest import Folder
from .drive import (
    FOX,
    GREEDY,
    ask,
    assert_same,
    ids,
    resident,
    said,
    settle,
    streamed,
    streams,
)

PICTURE = str(REFERENCE / "tiles-336/00_300x200.png")
RECIPES: dict[str, tuple[str, ...]] = {
    "4 bits": ("e4r4",),
    "2 bits in small groups": ("e2g32r6",),
    "8 bits": ("e8r8",),
    "layers that differ": ("e3r6", "routed@first,last=+1"),
    "not quantised": ("e4r6", "routed=bf16"),
    "down not quantised": ("e4r6", "routed_down=bf16"),
}


def converse(model: Maverick) -> tuple[list[Any], list[Session]]:
    """Replies of a conversation that is continued, forked, gone back in and shown a picture,
    and the sessions it leaves."""
    first = model.session()
    turn = ids(110)  # over four chunks
    replies = [ask(model, turn, first)]
    more = type(turn)([*turn.ids, *replies[0].ids, *ids(50, 1).ids], [])
    fork = first.fork()
    replies.append(ask(model, more, first))
    other = type(turn)([*turn.ids, *ids(9, 2).ids], [])
    replies.append(ask(model, other, fork))
    back = type(turn)([*turn.ids[:77], *ids(30, 3).ids], [])
    replies.append(ask(model, back, first))
    shown = model.encode("What?", [PICTURE])
    picture = model.session()
    replies.append(ask(model, shown, picture, temperature=0.8, seed=3))
    return [said(reply) for reply in replies], [first, fork, picture]


Said = tuple[list[Any], list[Session]]
Wanted = Callable[..., Said]


@pytest.fixture(scope="module")
def wanted() -> Wanted:
    """What a model in memory says, asked once."""
    known: dict[tuple[object, ...], Said] = {}

    def ask(path: Path, **kv: Any) -> Said:
        key = (path, *sorted(kv.items()))
        if key not in known:
            known[key] = converse(resident(path, **kv))
        return known[key]

    return ask


def same(model: Maverick, wanted: Said) -> None:
    found, sessions = converse(model)
    expected, others = wanted
    assert found == expected
    for mine, theirs in zip(sessions, others, strict=True):
        assert_same(mine, theirs)
    done = model.experts
    assert done is not None
    assert done.slots == done.experts or done.misses > 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("part", [0.0, 0.4])
def test_every_recipe(folder: Folder, wanted: Wanted, recipe: str, part: float) -> None:
    path = folder(*RECIPES[recipe])
    model = streamed(path, part, look_ahead=part > 0)
    assert (len(streams(model).banks) > 1) == ("differ" in recipe)
    assert part > 0 or all(bank.slots.count == 2 for bank in streams(model).banks)
    same(model, wanted(path))


@pytest.mark.parametrize(
    ("part", "look_ahead"), [(0.0, False), (0.0, True), (0.3, False), (0.8, True), (1.0, True)]
)
def test_where_every_layer_has_experts(
    folder: Folder, wanted: Wanted, part: float, look_ahead: bool
) -> None:
    path = folder("e4r6", mini="scout-mini")
    same(streamed(path, part, look_ahead=look_ahead), wanted(path))


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("recipe", ["4 bits", "not quantised"])
def test_steps_whose_rows_are_sorted(
    folder: Folder, wanted: Wanted, recipe: str, part: float
) -> None:
    """From 64 rows on, in memory all of an expert's are computed together."""
    path = folder(*RECIPES[recipe], chunk=128)
    same(streamed(path, part), wanted(path))


KV: list[dict[str, Any]] = [
    {"kv_bits": 8},
    {"kv_bits": 4},
    {"kv_bits": 8, "quantized_kv_start": 100},
    {"max_kv_size": 64},
    {"kv_bits": 4, "quantized_kv_start": 45, "max_kv_size": 77},
]


@pytest.mark.parametrize("kv", KV, ids=str)
def test_every_kind_of_kv_cache(e4r4: Path, wanted: Wanted, kv: dict[str, Any]) -> None:
    same(streamed(e4r4, 0.1, **kv), wanted(e4r4, **kv))


@pytest.mark.parametrize(("most", "kv"), [(1, {}), (40, {}), (40, KV[4]), (70, KV[3])], ids=str)
def test_prompts_of_several_passes(
    e4r4: Path, wanted: Wanted, kv: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PASS_TOKENS", most)
    same(streamed(e4r4, **kv), wanted(e4r4, **kv))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
def test_other_types_to_compute_in(folder: Folder, dtype: mx.Dtype) -> None:
    path = folder("e4r4", mini="scout-mini")
    model, wanted = streamed(path, dtype=dtype), resident(path, dtype=dtype)
    found, other = model.session(), wanted.session()
    how = {"max_tokens": 3}
    mine = [said(ask(model, ids(n), found, **how)) for n in (40, 12)]
    assert mine == [said(ask(wanted, ids(n), other, **how)) for n in (40, 12)]
    assert_same(found, other)


def test_all_logits_of_a_pass_and_of_each_token(e4r4: Path) -> None:
    """[L, V], not only those that a reply reports."""

    def logits(model: Maverick) -> list[np.ndarray[Any, Any]]:
        def compute() -> list[np.ndarray[Any, Any]]:
            network, numbers = model.model, mx.array([ids(100).ids])
            cache = network.make_cache(model.kv)
            rows = [network(numbers[:, :70], cache=cache)]
            rows += [network(numbers[:, i : i + 1], cache=cache) for i in range(70, 100)]
            rows.append(network(mx.concatenate([numbers, numbers[:, ::-1]])))  # a batch
            return [np.array(row) for row in rows]

        return model.run(compute)

    for found, wanted in zip(logits(streamed(e4r4)), logits(resident(e4r4)), strict=True):
        assert np.array_equal(found, wanted)


def test_saved_sessions_go_both_ways(e4r4: Path, tmp_path: Path) -> None:
    here, there = streamed(e4r4), resident(e4r4)
    assert here.fingerprint == there.fingerprint
    turns = [ids(75), ids(75)]
    turns[1].ids.extend(ids(40, 1).ids)
    wanted = there.session()
    expected = [said(ask(there, turn, wanted)) for turn in turns]
    for saving, loading in ((here, there), (there, here)):
        session = saving.session()
        assert said(ask(saving, turns[0], session)) == expected[0]
        session.save(tmp_path / "session")
        loaded = loading.load_session(tmp_path / "session")
        reply = ask(loading, turns[1], loaded)
        assert said(reply) == expected[1]
        assert reply.stats.cached_tokens == 75
        assert_same(loaded, wanted)
        # The very session, too: it is a KV cache, and nothing of how the model is kept.
        assert said(ask(loading, turns[1], session)) == expected[1]


@pytest.mark.parametrize("path", ["e4r4", "scout"])
def test_conversations_in_turns(folder: Folder, path: str) -> None:
    """Event by event, on two models of different slabs, and two conversations on each."""
    place = folder("e4r4") if path == "e4r4" else folder("e4r6", mini="scout-mini")
    models = [streamed(place), streamed(place, 0.3, look_ahead=True)]
    wanted = resident(place)
    prompts = [ids(90 + 17 * i, i) for i in range(2)]
    expected = [said(ask(wanted, prompt)) for prompt in prompts]
    left = [
        (i, model.stream_encoded(prompt, **GREEDY), [])
        for model in models
        for i, prompt in enumerate(prompts)
    ]
    done: list[tuple[int, list[Any]]] = []
    while left:
        for turn in list(left):
            i, stream, events = turn
            events.append(next(stream))
            if isinstance(events[-1], Finished):
                left.remove(turn)
                done.append((i, events))
    assert len(done) == 4
    for i, events in done:
        assert said(collect(events)) == expected[i]


def test_one_slab_for_two_conversations_of_one_reader(e4r4: Path) -> None:
    """One is left alone in the middle of its prompt while the other is answered."""
    model, wanted = streamed(e4r4), resident(e4r4)
    stream = model.stream_encoded(ids(130), **GREEDY)
    begun = [next(stream) for _ in range(4)]
    assert not any(isinstance(event, Token) for event in begun)
    assert said(ask(model, ids(60, 9))) == said(ask(wanted, ids(60, 9)))
    assert said(collect([*begun, *stream])) == said(ask(wanted, ids(130)))


def test_the_same_again(e4r4: Path) -> None:
    """Whatever is in the slots when it begins."""
    model = streamed(e4r4, 0.2)
    prompt = model.encode(FOX * 5)
    replies = [said(ask(model, prompt)) for _ in range(3)]
    assert replies == [said(ask(resident(e4r4), prompt))] * 3


@pytest.fixture
def log() -> Callable[[Maverick], list[tuple[int, list[int]]]]:
    """Watches which experts each layer asks its slots for."""

    def watch(model: Maverick) -> list[tuple[int, list[int]]]:
        seen: list[tuple[int, list[int]]] = []
        for number, layer in streams(model).layers.items():
            note = layer._note

            def noted(numbers: Any, *rest: Any, number: int = number, note: Any = note) -> None:
                seen.append((number, sorted(set(numbers.tolist()))))
                note(numbers, *rest)

            layer._note = noted  # type: ignore[method-assign]
        return seen

    return watch


@pytest.mark.parametrize("part", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("recipe", ["4 bits", "layers that differ"])
def test_a_prompt_reads_no_expert_twice(
    folder: Folder, recipe: str, part: float, log: Callable[[Maverick], Any]
) -> None:
    path = folder(*RECIPES[recipe])
    model = streamed(path, part)
    settle(model)
    seen = log(model)
    before = model.experts
    assert before is not None
    done = ask(model, ids(170), max_tokens=1).stats.experts
    assert done is not None
    assert [layer for layer, _ in seen] == sorted(streams(model).layers)  # each once
    distinct = sum(len(experts) for _, experts in seen)
    assert distinct > 3 * 8  # the prompt is long enough to say something
    assert done.hits + done.misses == distinct
    assert done.misses >= distinct - done.slots
    assert done.bytes_read == model.experts.bytes_read - before.bytes_read  # type: ignore[union-attr]
    files = {sum(part.nbytes for part in places.parts) for places in layers(model)}
    assert min(files) * done.misses <= done.bytes_read <= max(files) * done.misses
    assert len(files) == (2 if "differ" in recipe else 1)


def layers(model: Maverick) -> list[LayerPlaces]:
    return [places for bank in streams(model).banks for places in bank.layers]
