"""What one chat runs with: precedence, keeping it, what needs the model again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.errors import UsageError
from mlx_maverick.kv import KVOptions
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions, Mode
from mlx_maverick.tui.settings.settings import NAMES, Settings, stored_place

texts = st.none() | st.text(max_size=40)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 100),
    top_p=st.floats(0.001, 1),
    min_p=st.floats(0, 1),
    top_k=st.integers(0, 1000),
    xtc_probability=st.floats(0, 1),
    xtc_threshold=st.floats(0, 0.5),
    repetition_penalty=st.floats(0.01, 100),
    presence_penalty=st.floats(-100, 100),
    frequency_penalty=st.floats(-100, 100),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-1000, 1000), max_size=3),
    seed=st.none() | st.integers(0, 2**63 - 1),
    max_tokens=st.none() | st.integers(1, 2**40),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 100),
)
kvs = st.builds(KVOptions, st.none(), max_size=st.none() | st.integers(16, 10**6)) | st.builds(
    KVOptions, st.sampled_from([8, 4]), st.integers(0, 10**6), st.none() | st.integers(16, 10**6)
)
streamed = st.builds(
    ExpertOptions,
    st.sampled_from([Mode.AUTO, Mode.STREAM]),
    st.none() | st.integers(1, 10**12),
    st.booleans(),
    st.booleans(),
)
settings = st.builds(
    Settings,
    texts,
    texts,
    st.none() | st.integers(2, 10**7),
    kvs,
    streamed | st.just(ExpertOptions(Mode.RESIDENT)),
    samplings,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(settings)
def test_any_settings_survive_being_stored(chosen: Settings) -> None:
    stored = json.loads(json.dumps(chosen.as_dict()))
    assert Settings.of_dict(stored) == chosen


def test_a_route_log_is_of_one_run() -> None:
    """A chat that is gone on with would write over it."""
    chosen = Settings(experts=ExpertOptions(look_ahead=True, route_log=Path("routes.bin")))
    assert Settings.of_dict(chosen.as_dict()).experts == ExpertOptions(look_ahead=True)


@given(settings, st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), json_values))
def test_what_another_version_stored_is_taken_as_far_as_it_makes_sense(
    chosen: Settings, other: dict[str, Any]
) -> None:
    stored = json.loads(json.dumps(chosen.as_dict() | other))
    taken = Settings.of_dict(stored)
    if not other.keys() & {"system", "context"}:
        assert (taken.system, taken.context) == (chosen.system, chosen.context)


def test_a_value_of_a_newer_version_costs_no_other() -> None:
    stored = Settings("m", "Be brief.", sampling=Sampling(temperature=0.1)).as_dict()
    stored |= {"kv_bits": 2, "kv_start": 100, "top_p": "adaptive", "thinking": True}
    assert Settings.of_dict(stored) == Settings("m", "Be brief.", sampling=Sampling(0.1))


@pytest.mark.parametrize("nonsense", [None, 7, "settings", [1, 2], {}])
def test_nothing_usable_stored_means_what_is_built_in(nonsense: object) -> None:
    assert Settings.of_dict(nonsense) == Settings()


def test_the_command_line_is_stronger_than_the_chat_and_the_chat_than_the_file() -> None:
    line = {"temperature": 0.1}
    chat = {"temperature": 0.2, "top_p": 0.2, "seed": None}
    file = {"temperature": 0.3, "top_p": 0.3, "min_p": 0.3, "seed": 3, "model": "m"}
    merged = Settings.merged(line, chat, file)
    assert merged.sampling == Sampling(temperature=0.1, top_p=0.2, min_p=0.3, seed=None)
    assert merged.model == "m"
    assert Settings.merged() == Settings()


@given(st.lists(settings.map(Settings.as_dict).map(stored_place), min_size=1, max_size=3))
def test_settings_that_say_everything_are_not_changed_by_weaker_places(
    places: list[dict[str, Any]],
) -> None:
    assert Settings.merged(*places) == Settings.of_dict(places[0])


def test_options_that_belong_together_are_taken_from_one_place() -> None:
    """Neither a start of no bits nor a slab of resident experts comes of two places."""
    chat = {"kv_bits": 4, "kv_start": 4096, "kv_max_size": 100, "experts": "stream",
            "expert_memory": 10**9}  # fmt: skip
    assert Settings.merged({"kv_bits": None}, chat).kv == KVOptions(max_size=100)
    assert Settings.merged({"kv_bits": 8}, chat).kv == KVOptions(8, 0, 100)
    resident = Settings.merged({"experts": "resident"}, chat)
    assert resident.experts == ExpertOptions(Mode.RESIDENT)
    assert Settings.merged({}, chat).experts == ExpertOptions(Mode.STREAM, 10**9)
    assert Settings.merged({"kv_bits": 16}).kv == KVOptions()


def test_an_empty_system_prompt_is_none_and_stronger_than_another() -> None:
    assert Settings.merged({"system": ""}, {"system": "Be brief."}).system is None
    assert Settings(system=" \n") == Settings()


@pytest.mark.parametrize(("said", "about"), [
    ({"temprature": 1}, "unknown setting 'temprature'"), ({"temperature": "hot"}, "temperature"),
    ({"context": 1}, "context 1 is not a whole number of at least 2"), ({"context": True}, "True"),
    ({"context": 5.0}, "whole"), ({"kv_bits": 3}, "3 bits"), ({"kv_start": 5}, "no bits"),
    ({"experts": "disk"}, "disk"), ({"model": 5}, "model 5 is not text"),
    ({"system": ["x"]}, "not text"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(said: dict[str, Any], about: str) -> None:
    with pytest.raises(UsageError, match=about):
        Settings.merged(said)
    assert Settings.merged(stored_place(said)) == Settings()


def test_what_needs_the_model_again() -> None:
    loaded = Settings("m", "a", 1000)
    assert replace(loaded, system="b", sampling=Sampling(0.1)).reloads(loaded) == ()
    other = Settings("n", "a", 2000, KVOptions(8), ExpertOptions(Mode.STREAM))
    assert other.reloads(loaded) == ("model", "context", "KV cache", "experts")
    assert replace(loaded, context=2000).reloads(loaded) == ("context",)
