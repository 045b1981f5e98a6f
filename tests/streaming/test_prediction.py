"""What is predicted of streamed experts: the arithmetic, and what is said of it."""

import numpy as np
import pytest

from mlx_maverick.streaming.prediction import (
    counted_hit_rate,
    even_hit_rate,
    predict,
    rate,
)

GB = 10**9


def test_every_byte_is_read_from_memory_and_missed_ones_from_the_ssd_before() -> None:
    said = predict(read=10 * GB, routed=2 * GB, hit_rate=0.25, memory=500 * GB, ssd=5 * GB, kv=GB)
    assert said.missed == 1_500_000_000
    assert said.tps == pytest.approx(1 / (10 / 500 + 1.5 / 5))
    assert said.tps_full == pytest.approx(1 / (11 / 500 + 1.5 / 5))
    assert (said.hit_rate, said.ssd, said.ceiling) == (0.25, 5 * GB, False)
    assert said.words == "about 3.1 tok/s"


def test_with_all_experts_in_memory_the_ssd_does_not_count() -> None:
    said = predict(10 * GB, 2 * GB, 1.0, 500 * GB, 1.0)
    assert (said.missed, said.tps) == (0, 50.0)


def test_without_the_memorys_bandwidth_only_a_ceiling_is_known() -> None:
    said = predict(10 * GB, 2 * GB, 0.5, None, 5 * GB, kv=GB)
    assert said.tps == said.tps_full == 5.0
    assert said.ceiling
    assert said.words == "at most 5.0 tok/s (by the SSD alone)"
    nothing = predict(10 * GB, 2 * GB, 1.0, None, 5 * GB)
    assert nothing.tps is None
    assert "unknown" in nothing.words


@pytest.mark.parametrize(
    ("tps", "said"), [(0.44, "0.4"), (9.94, "9.9"), (9.96, "10"), (66.1, "66")]
)
def test_rates_have_digits_that_say_something(tps: float, said: str) -> None:
    assert rate(tps) == said


def test_hits_if_all_experts_are_used_alike() -> None:
    assert even_hit_rate(32, 128) == 0.25
    assert even_hit_rate(500, 128) == 1.0


def test_hits_of_the_most_used() -> None:
    counts = np.array([[5, 0, 1, 0], [2, 0, 1, 1]])  # of both layers together
    assert counted_hit_rate(counts, 1) == 0.5
    assert counted_hit_rate(counts, 2) == 0.7
    assert counted_hit_rate(counts, 5) == 1.0
    assert counted_hit_rate(counts, 100) == 1.0
    assert counted_hit_rate(counts, 0) == 0.0


def test_skew_is_worth_more_than_evenness() -> None:
    """As experts by Zipf's law; what was used alike has no advantage."""
    uses = (10**6 / np.arange(1, 129)).astype(np.int64)[None]
    assert counted_hit_rate(uses, 64) > 0.85
    assert counted_hit_rate(np.ones((24, 128), np.int64), 768) == even_hit_rate(768, 24 * 128)


def test_of_no_uses_nothing_is_concluded() -> None:
    assert counted_hit_rate(np.zeros((2, 16), np.int64), 8) == 0.25
