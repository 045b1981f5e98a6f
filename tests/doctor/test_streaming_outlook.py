"""What `doctor` and `show` say can be streamed is what loading streams, to the byte."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick import memory, sizing
from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.doctor.outlook import streamed_folder
from mlx_maverick.errors import DoesNotFit
from mlx_maverick.loading import Unread
from mlx_maverick.macs import Machine
from mlx_maverick.model import default_dtype
from mlx_maverick.sizing import Verdict
from mlx_maverick.streaming.decide import decide
from mlx_maverick.streaming.options import ExpertOptions, Mode


def machine(limit: int) -> Machine:
    return Machine("a machine", limit, limit, limit, None, None, ("", ""))


@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize(
    ("recipe", "rules", "forms"),
    [
        ("e4r4", [], 1),
        ("e4r6", ["routed@first=+1"], 2),
        ("e2g32r4", ["routed=bf16", "routed_down@last=8"], 2),
    ],
)
def test_at_the_edges(
    recipe: str, rules: list[str], forms: int, element: int, mini: Path, tmp_path: Path
) -> None:
    """With the least memory that streams it, with a byte less, and where it just fits."""
    made, out = Recipe.parse(recipe, rules), tmp_path / "out"
    convert(mini, out, made, fast=True)
    checkpoint, config = Checkpoint.open(out), ModelConfig.from_folder(out)
    need = sizing.of_folder(config, checkpoint, 64, element_bytes=element)
    size = sizing.size(ModelConfig.from_folder(mini), made, 64, element_bytes=element)
    least, whole = need.with_slots(0).total, need.budget.total
    assert least < whole

    def both(limit: int) -> tuple[bool, bool]:
        """Whether it is said to be streamed, and whether it is."""
        said = streamed_folder(need, machine(limit))
        verdict = sizing.fit(size, machine(limit)).verdict
        assert verdict == _verdict(limit, least, whole)
        assert (said is not None) == (verdict is Verdict.STREAMED)
        budget, plan = decide(checkpoint, config, need.budget, ExpertOptions(), limit)
        if said and plan:
            assert budget.total <= limit == said.memory
            rounding = len(plan.banks) / plan.keys + forms * 9 * 4096 / need.experts
            assert plan.slots / plan.keys == pytest.approx(said.share, abs=rounding)
        return said is not None, plan is not None

    assert both(need.shared) == both(least - 1) == (False, False)
    assert both(least) == both((least + whole) // 2) == both(whole - 1) == (True, True)
    assert both(whole) == both(2 * whole) == (False, False)  # all of them are in memory


def _verdict(limit: int, least: int, whole: int) -> Verdict:
    if limit >= whole:
        return Verdict.FITS
    return Verdict.STREAMED if limit >= least else Verdict.NO


def test_who_asks_for_all_in_memory_is_told_of_the_other_way(
    maverick_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(maverick_mini, tmp_path / "out", "e4r4", fast=True)
    resident = ExpertOptions(Mode.RESIDENT)

    def refused(model: Path, limit: int) -> str:
        monkeypatch.setattr(memory, "machine_limit", lambda: limit)
        with pytest.raises(DoesNotFit) as error:
            Unread.open(model, context=64, experts=resident)
        return str(error.value)

    monkeypatch.setattr(mx, "get_active_memory", lambda: 0)  # whatever other tests have loaded
    whole = Unread.open(tmp_path / "out", context=64, experts=resident).budget
    said = refused(tmp_path / "out", whole.total - 1)
    assert "; leave out --experts resident, to stream them, or " in said
    unread = Unread.open(tmp_path / "out", context=64)  # which does
    assert unread.plan is not None
    assert unread.budget.total <= whole.total - 1
    checkpoint, config = Checkpoint.open(tmp_path / "out"), unread.prompt.config
    need = sizing.of_folder(config, checkpoint, 64, element_bytes=default_dtype().size)
    assert need.budget == whole
    # Where it does not help, and where it is not possible, nothing is said of it.
    assert "leave out" not in refused(tmp_path / "out", need.with_slots(0).total - 1)
    monkeypatch.undo()
    published = Unread.open(maverick_mini, context=64, experts=resident).budget.total
    assert "leave out" not in refused(maverick_mini, published - 1)
