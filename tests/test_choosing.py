"""From logits to tokens: samplers, processors, log-probabilities, penalties, bias."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.choosing import NOT_A_NUMBER, Chooser
from mlx_maverick.errors import UsageError
from mlx_maverick.events import Token
from mlx_maverick.maverick import Maverick
from mlx_maverick.sampling import Sampling

LOGITS = mx.array([[1.0, 4.0, 3.0, -2.0, 0.5]])
VOCABULARY = 5


def chooser(prompt: tuple[int, ...] = (0,), **options: Any) -> Chooser:
    how = {k: options.pop(k) for k in ("sampler", "processors", "constraint") if k in options}
    return Chooser(Sampling(**{"temperature": 0, "seed": 0, **options}), prompt, VOCABULARY, **how)


def drawn(choose: Chooser, count: int = 200) -> set[int]:
    return {choose(LOGITS).id for _ in range(count)}


def test_greedy() -> None:
    assert chooser()(LOGITS).id == 1


def test_log_probabilities_are_those_of_a_softmax() -> None:
    choice = chooser(logprobs=3)(LOGITS)
    wanted = np.log(np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum())
    assert choice.logprob is not None
    assert choice.logprob.item() == pytest.approx(wanted[1], abs=1e-5)
    assert [id for id, _ in choice.top] == [1, 2, 0]
    assert [p for _, p in choice.top] == pytest.approx([wanted[i] for i in (1, 2, 0)], abs=1e-5)
    assert chooser(logprobs=0)(LOGITS).top == ()
    assert chooser()(LOGITS).logprob is None


def test_more_likely_tokens_than_there_are() -> None:
    choice = chooser(logprobs=50)(LOGITS)
    assert [id for id, _ in choice.top] == [1, 2, 0, 4, 3]


def test_top_k() -> None:
    assert drawn(chooser(temperature=5, top_p=1, min_p=0, top_k=2)) == {1, 2}
    assert drawn(chooser(temperature=5, top_p=1, min_p=0, top_k=99)) == set(range(5))


def test_min_p() -> None:
    # exp(3 - 4) = 0.37 of the likeliest, exp(1 - 4) = 0.05
    assert drawn(chooser(temperature=5, top_p=1, min_p=0.2)) == {1, 2}


def test_xtc_leaves_the_likeliest_out() -> None:
    options = {"temperature": 1, "top_p": 1, "min_p": 0, "xtc_threshold": 0.2}
    assert 1 not in drawn(chooser(xtc_probability=1.0, **options))
    assert 1 in drawn(chooser(**options))


def test_bias() -> None:
    assert chooser(logit_bias={3: 10.0})(LOGITS).id == 3
    assert chooser(logit_bias={1: -10.0})(LOGITS).id == 2
    with pytest.raises(UsageError, match="token 5 of a vocabulary of 5"):
        chooser(logit_bias={5: 1.0})


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}]
)
def test_penalties_see_the_prompt_and_the_answer(penalty: dict[str, float]) -> None:
    choose = chooser(prompt=(1,), **penalty)
    assert choose(LOGITS).id == 2  # 1 was in the prompt
    assert choose(LOGITS).id != 2 or "frequency_penalty" in penalty
    assert chooser(prompt=(0,), **penalty)(LOGITS).id == 1


def test_processors_come_in_order_and_see_all_tokens() -> None:
    seen = []

    def double(tokens: mx.array, logits: mx.array) -> mx.array:
        seen.append(tokens.tolist())
        return logits * 2

    def forbid(tokens: mx.array, logits: mx.array) -> mx.array:
        assert logits[0, 1].item() == 8  # after the first one
        return mx.where(mx.arange(VOCABULARY) == 1, -mx.inf, logits)

    choose = chooser(prompt=(4, 3), processors=(double, forbid), logprobs=0)
    first = choose(LOGITS)
    assert (first.id, choose(LOGITS).id) == (2, 2)
    assert seen == [[4, 3], [4, 3, 2]]
    assert first.logprob is not None
    total = sum(math.exp(2 * v) for v in (1.0, 3.0, -2.0, 0.5))
    assert first.logprob.item() == pytest.approx(6 - math.log(total), abs=1e-5)


def test_another_sampler() -> None:
    def least(logprobs: mx.array) -> mx.array:
        assert mx.logsumexp(logprobs).item() == pytest.approx(0, abs=1e-5)
        return mx.argmin(logprobs, axis=-1)

    assert chooser(sampler=least)(LOGITS).id == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_numbers_are_no_token(bad: float) -> None:
    logits = mx.array([[1.0, bad, 3.0, -2.0, 0.5]])
    assert chooser(logprobs=2)(logits).id == NOT_A_NUMBER


class OnlyOnce:
    """Every token at most once."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def mask(self, logits: mx.array) -> mx.array:
        taken = mx.array([[id in self.taken for id in range(logits.shape[1])]])
        return mx.where(taken, -mx.inf, logits)

    def accept(self, id: int) -> None:
        self.taken.append(id)


def test_a_constraint_hears_of_every_token() -> None:
    choose = chooser(constraint=OnlyOnce())
    assert choose.waits
    ids = []
    for _ in range(5):
        ids.append(choose(LOGITS).id)
        choose.accept(ids[-1])
    assert ids == [1, 2, 0, 4, 3]


def test_log_probabilities_of_a_reply(maverick: Maverick) -> None:
    reply = maverick.generate("Hi", max_tokens=6, temperature=0, logprobs=3)
    tokens = [t for t in reply.tokens if t.id is not None]
    assert len(tokens) == len(reply.ids) == reply.stats.new_tokens
    for token in tokens:
        assert len(token.likely) == 3
        best = token.likely[0]
        assert (best.id, best.logprob) == (token.id, token.logprob)
        assert best.logprob >= token.likely[1].logprob >= token.likely[2].logprob
        assert best.text == maverick.prompt.tokenizer.decode([token.id])
    logits = maverick.model(mx.array([maverick.encode("Hi").ids]))[0, -1]
    wanted = logits - mx.logsumexp(logits)
    assert tokens[0].logprob == pytest.approx(float(wanted[tokens[0].id].item()), abs=1e-4)


def test_processors_of_a_reply(maverick: Maverick) -> None:
    usual = maverick.generate("Hi", max_tokens=4, temperature=0)
    banned = usual.ids[0]

    def ban(tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.where(mx.arange(logits.shape[-1]) == banned, -mx.inf, logits)

    reply = maverick.generate("Hi", max_tokens=4, temperature=0, logits_processors=[ban])
    assert banned not in reply.ids
    assert all(isinstance(t, Token) for t in reply.tokens)


def test_a_seed_repeats_a_reply_with_any_sampler(maverick: Maverick) -> None:
    def ids(seed: int) -> list[int]:
        options: dict[str, Any] = {"top_k": 50, "xtc_probability": 0.5, "repetition_penalty": 1.1}
        return maverick.generate("Hi", max_tokens=12, temperature=1, seed=seed, **options).ids

    assert ids(3) == ids(3)
    assert ids(3) != ids(4)


def test_what_cannot_come_is_not_likely(maverick: Maverick) -> None:
    """Its log-probability would be no JSON either."""
    reply = maverick.generate(
        "Hi", json_schema={"enum": ["a"]}, temperature=0, logprobs=5, max_tokens=9
    )
    assert reply.text == '"a"'
    for token in reply.tokens:
        assert [one.id for one in token.likely] == [token.id]
        assert token.logprob == pytest.approx(0, abs=1e-6)
