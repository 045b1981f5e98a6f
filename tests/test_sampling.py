"""Options of a reply: Llama 4's recommended defaults, and ranges."""

from dataclasses import fields
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.chat import BESIDES
from mlx_maverick.errors import UsageError
from mlx_maverick.maverick import Options, TurnOptions
from mlx_maverick.sampling import Sampling


def test_every_field_can_be_a_keyword_of_the_python_api() -> None:
    names = {field.name for field in fields(Sampling)}
    assert set(Options.__annotations__) == names
    assert set(TurnOptions.__annotations__) == {*names, *BESIDES}


def test_defaults_are_those_recommended() -> None:
    default = Sampling()
    assert (default.temperature, default.top_p, default.min_p) == (0.6, 0.9, 0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"min_p": -1},
        {"top_p": 0},
        {"top_p": "x"},
        {"temperature": None},
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"max_tokens": True},
        {"seed": "1"},
        {"seed": -1},
        {"stop": "END"},
        {"stop": ("",)},
    ],
)
def test_out_of_range_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Sampling(**options)


def test_temperature_zero_is_greedy() -> None:
    logits = mx.array([[0.1, 3.0, 2.9]])
    assert Sampling(temperature=0).sampler(8)(logits).tolist() == [1]


def test_a_vanishing_temperature_is_greedy_too() -> None:
    """Its inverse overflows, and every token would be equally likely."""
    logits = mx.array([[0.1, 3.0, 2.9]])
    sample = Sampling(temperature=1e-44, top_p=1, min_p=0).sampler(8)
    assert {sample(logits).item() for _ in range(20)} == {1}


def test_top_p_leaves_the_unlikely_out() -> None:
    logprobs = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    sample = Sampling(temperature=1, top_p=0.7, min_p=0).sampler(8)
    mx.random.seed(0)
    assert {sample(logprobs).item() for _ in range(60)} == {0, 1}
