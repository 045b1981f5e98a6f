"""The fields: what they show, and the settings that come of them."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.errors import UsageError
from mlx_maverick.kv import KV_BITS, KVOptions
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions, Mode
from mlx_maverick.tui.settings.form import FIELDS, filled, shown
from mlx_maverick.tui.settings.preferences import SETTINGS
from mlx_maverick.tui.settings.settings import Settings

from .test_settings import settings

GIVEN = Settings(
    "~/m", "Be brief.", 4096, KVOptions(8, 100, 5000), ExpertOptions(Mode.STREAM),
    Sampling(0.3, top_k=7, seed=5, stop=("x",)),
)  # fmt: skip


def fill(given: Settings = GIVEN, **texts: str) -> Any:
    return filled(given, shown(given) | texts)


def test_what_a_file_says_can_be_changed_here() -> None:
    assert {field.name for field in FIELDS} == set(SETTINGS)


@given(settings)
def test_what_is_not_touched_stays_exactly(given: Settings) -> None:
    """Also control characters, which no field shows, and options that have no field."""
    assert filled(given, shown(given)).settings == given
    assert not any(c in text for text in shown(given).values() for c in "\x1b\x07\r\x9b")


def test_each_field_changes_its_own() -> None:
    sampling = GIVEN.sampling
    for texts, changed in (
        ({"model": " owner/name "}, replace(GIVEN, model="owner/name")),
        ({"system": "Rhyme.\nAlways."}, replace(GIVEN, system="Rhyme.\nAlways.")),
        ({"system": " \n"}, replace(GIVEN, system=None)),
        ({"context": "65,536"}, replace(GIVEN, context=65536)),
        ({"context": ""}, replace(GIVEN, context=None)),
        ({"kv_bits": "4"}, replace(GIVEN, kv=KVOptions(4, 100, 5000))),
        ({"kv_bits": "16"}, replace(GIVEN, kv=KVOptions(None, 0, 5000))),
        ({"kv_bits": ""}, replace(GIVEN, kv=KVOptions(None, 0, 5000))),
        ({"temperature": "1"}, replace(GIVEN, sampling=replace(sampling, temperature=1.0))),
        ({"temperature": ""}, replace(GIVEN, sampling=replace(sampling, temperature=0.6))),
        ({"top_p": ".5"}, replace(GIVEN, sampling=replace(sampling, top_p=0.5))),
        ({"min_p": "0"}, replace(GIVEN, sampling=replace(sampling, min_p=0.0))),
        ({"max_tokens": "9"}, replace(GIVEN, sampling=replace(sampling, max_tokens=9))),
        ({"seed": ""}, replace(GIVEN, sampling=replace(sampling, seed=None))),
    ):
        assert fill(**texts).settings == changed


@pytest.mark.parametrize(("name", "text", "reason"), [
    ("temperature", "hot", "temperature 'hot' is not a number from 0 to 100"),
    ("temperature", "0,6", "'0,6'"), ("temperature", "nan", "nan"), ("temperature", "101", "101"),
    ("top_p", "0", "use temperature 0"), ("top_p", "1.1", "from 0 to 1"), ("min_p", "-1", "-1"),
    ("max_tokens", "0", "from 1"), ("max_tokens", "5.5", "whole number"), ("seed", "-1", "-1"),
    ("context", "1", "at least 2"), ("context", "32k", "'32k'"), ("context", "3,2", "'3,2'"),
    ("kv_bits", "3", "use 8 or 4"), ("kv_bits", "many", "'many'"), ("model", " ", "needs a model"),
    ("seed", "9" * 5000, "seed"),
])  # fmt: skip
def test_what_is_wrong_is_said_of_its_field(name: str, text: str, reason: str) -> None:
    result = fill(**{name: text, "system": "Rhyme."})
    assert result.settings is None
    assert list(result.wrong) == [name]
    assert reason in result.wrong[name]


@given(st.fixed_dictionaries({field.name: st.text(max_size=12) for field in FIELDS}))
def test_any_text_is_taken_or_refused(texts: dict[str, str]) -> None:
    result = filled(GIVEN, texts)
    assert (result.settings is None) == bool(result.wrong)
    if result.settings:
        assert filled(result.settings, shown(result.settings)).settings == result.settings


def test_the_ranges_in_words_are_those_of_the_library() -> None:
    words = {field.name: field.meaning for field in FIELDS}
    limits = {name: re.match(r"(\d+) to (\d+)\.", text) for name, text in words.items()}
    assert {name for name, found in limits.items() if found} == {"temperature", "min_p"}
    for name, found in limits.items():
        if found:
            Sampling().changed({name: int(found[1])})
            Sampling().changed({name: int(found[2])})
            for beyond in (int(found[1]) - 0.001, int(found[2]) + 0.001):
                with pytest.raises(UsageError):
                    Sampling().changed({name: beyond})
    for name in ("max_tokens", "seed", "context"):
        found = re.match(r"(\d) or more\.", words[name])
        assert found
        assert fill(**{name: found[1]}).settings
        assert name in fill(**{name: f"{int(found[1]) - 1}"}).wrong
    for bits in KV_BITS:
        assert str(bits) in words["kv_bits"]
    for field in FIELDS:  # what an empty number field stands for
        if re.fullmatch(r"[\d.]+", field.empty):
            assert fill(**{field.name: ""}).settings == fill(**{field.name: field.empty}).settings
