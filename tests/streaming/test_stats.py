"""What streaming says of itself: rates, and what came since."""

from dataclasses import asdict, fields

from mlx_maverick.streaming.stats import ExpertStats

STATS = ExpertStats(
    slots=10, experts=40, slab_bytes=1000, hits=6, misses=2, bytes_read=900, read_seconds=3.0,
    wait_seconds=2.0, sync_seconds=1.0, predicted=8, predicted_right=6,
)  # fmt: skip


def test_rates() -> None:
    assert STATS.wanted == 8
    assert STATS.hit_rate == 0.75
    assert STATS.bandwidth == 300.0
    assert STATS.accuracy == 0.75


def test_rates_of_nothing() -> None:
    nothing = ExpertStats()
    assert nothing.wanted == 0
    assert nothing.hit_rate == 1.0
    assert nothing.bandwidth == 0.0
    assert nothing.accuracy is None
    assert ExpertStats(predicted=3).accuracy == 0.0


def test_since() -> None:
    """All that is counted is told apart; what memory is like stays."""
    doubled = ExpertStats(**{name: 2 * value for name, value in asdict(STATS).items()})
    fixed = {"slots": 20, "experts": 80, "slab_bytes": 2000}
    assert asdict(doubled.since(STATS)) == {**asdict(STATS), **fixed}
    assert STATS.since(STATS) == ExpertStats(slots=10, experts=40, slab_bytes=1000)
    assert len(fields(ExpertStats)) == 11  # a new one is one of the two kinds
