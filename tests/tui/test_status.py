"""The status line fits any width and breaks no field."""

import pytest

from mlx_maverick.tui.live import Live, Phase
from mlx_maverick.tui.status import Status

FULL = Live(
    phase=Phase.ANSWERING,
    pressure="critical",
    model=227_100_000_000,
    kv=1_600_000_000,
    prefilled=20_000,
    prompt=123_456,
    context_used=20_000,
    context=1_048_576,
    tps=50.1,
)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_width(width: int) -> None:
    status = Status()
    status.set_reactive(Status.live, FULL)
    lines = status.lines(width)
    assert all(len(line) <= width for line in lines)
    for field in (
        "● critical",
        "model 227.1 GB",
        "KV 1.6 GB",
        "prompt 20,000/123,456",
        "context 20,000/1,048,576",
        "50.1 tok/s",
    ):
        assert sum(field in line for line in lines) == 1
    assert len(lines) == {40: 3, 60: 2, 80: 2, 100: 1, 200: 1}[width]


def test_what_is_not_known_is_not_said() -> None:
    assert Live().fields() == ["loading"]
    assert Live(loaded=3, to_load=48, model=10**10).fields() == [
        "loading 3/48 layers",
        "model 10.0 GB",
    ]
    assert Live(phase=Phase.ENDED).fields() == ["ended"]
    assert Live(phase=Phase.READY, prompt=9, prefilled=9).fields() == ["prompt 9"]
