"""Conversions that fail, of `conversion.convert`: nothing is left of them."""

from pathlib import Path

import numpy as np
import pytest

from mlx_maverick.convert import Progress, convert
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, UsageError

from . import damage

GATE_UP = "language_model.model.layers.3.feed_forward.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("name", "where", "told"),
    [
        (GATE_UP, (5, 3, 200), f"{GATE_UP} (expert 5)"),
        ("language_model.lm_head.weight", (1023, 127), "language_model.lm_head.weight"),
        ("vision_model.layernorm_pre.bias", (0,), "vision_model.layernorm_pre.bias"),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers(
    source: Path, out: Path, name: str, where: tuple[int, ...], told: str, bad: float
) -> None:
    values = damage.tensors(source)[name]
    values[where] = bad
    damage.change(source, {name: values})
    with pytest.raises(BadCheckpoint) as caught:
        convert(source, out, "e4r4")
    assert told in str(caught.value)
    assert list(out.parent.iterdir()) == []


def test_nothing_is_written_before_everything_is_checked(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda self: made.append(self))
    with pytest.raises(UsageError, match="inside the source"):
        convert(source, source / "out", "e4r4")
    with pytest.raises(UsageError, match="no recipe"):
        convert(source, out, "4bit")
    damage.change(source, {"language_model.lm_head.weight": None})
    with pytest.raises(BadCheckpoint, match="lacks"):
        convert(source, out, "e4r4")
    assert made == []


def test_too_little_disk_leaves_nothing(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Disk", (), {"free": 3_000_000})
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DoesNotFit, match="free"):
        convert(maverick_mini, out, "e4r4")
    assert list(out.parent.iterdir()) == []


def test_an_error_halfway_leaves_nothing(maverick_mini: Path, out: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done * 2 > progress.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(maverick_mini, out, "e4r4", stop)
    assert list(out.parent.iterdir()) == []


def test_an_existing_output_is_never_touched(maverick_mini: Path, out: Path) -> None:
    out.mkdir()
    with pytest.raises(UsageError, match="exists already"):
        convert(maverick_mini, out, "e4r4")
    assert list(out.iterdir()) == []
    assert [p.name for p in out.parent.iterdir()] == [out.name]
