"""How fast, now and on average, and how long still."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.tui.rates import Rate


def test_a_steady_one() -> None:
    rate = Rate(100.0, 7)
    for i in range(1, 101):
        rate.add(100 + i * 0.05, 7 + 2 * i)
    assert rate.average == pytest.approx(40)
    assert rate.recent(105.0) == pytest.approx(40)
    assert rate.left(105.0, 207 + 80) == pytest.approx(2)
    assert rate.left(106.0, 207 + 80) == pytest.approx(1)
    assert rate.left(109.0, 207 + 80) == 1  # late
    assert rate.left(109.0, 207) == 0


def test_now_is_the_last_seconds() -> None:
    rate = Rate(0.0)
    for i in range(1, 101):
        rate.add(i * 0.1, 10 * i)  # 100 a second for ten seconds
    for i in range(1, 51):
        rate.add(10 + i * 0.1, 1000 + i)  # then 10 a second for five
    assert rate.recent(15.0) == pytest.approx(10)
    assert rate.average == pytest.approx(1050 / 15)


def test_a_slow_one() -> None:
    """Slower than once in the window: what counts is the way from one to the next."""
    rate = Rate(0.0)
    for i in range(1, 6):
        rate.add(4.0 * i, i)
        assert rate.recent(4.0 * i) == pytest.approx(0.25)
        assert rate.recent(4.0 * i + 3.9) == pytest.approx(0.25)


def test_it_falls_while_nothing_comes() -> None:
    rate = Rate(0.0)
    for i in range(1, 41):
        rate.add(i * 0.05, i)
    seen = [rate.recent(2.0 + wait) for wait in (0, 0.5, 1, 5, 50)]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == pytest.approx(20)
    assert seen[-1] < 0.1


def test_nothing_is_known_of_one_count() -> None:
    rate = Rate(1.0, 5)
    rate.add(1.0, 6)  # of the same moment: where it starts
    assert (rate.average, rate.recent(9.0), rate.left(9.0, 100)) == (0, 0, 0)
    rate.add(2.0, 7)
    assert rate.average == 1


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=50), st.floats(0, 10))
def test_any_times(steps: list[tuple[float, int]], wait: float) -> None:
    rate = Rate(0.0)
    now, total = 0.0, 0
    for seconds, more in steps:
        now, total = now + seconds, total + more
        rate.add(now, total)
    assert rate.recent(now + wait) >= 0
    assert rate.average >= 0
    assert rate.left(now + wait, total + 10) >= 0
