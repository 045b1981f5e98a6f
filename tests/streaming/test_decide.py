"""Whether experts are streamed: what is asked for, what fits, and what is said if nothing does."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_maverick import memory
from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, UsageError
from mlx_maverick.memory import Budget
from mlx_maverick.streaming.decide import decide, streamable
from mlx_maverick.streaming.options import ExpertOptions
from mlx_maverick.streaming.places import places
from mlx_maverick.streaming.plan import least_bytes

from ..convert import full_size
from .full_size import converted

GB = 10**9
CHECKPOINT, CONFIG = converted("e4r6")
RESIDENT = Budget.of(CONFIG, CHECKPOINT.nbytes, 32768)  # 236 GB
EXPERTS = sum(layer.experts * layer.memory(2) for layer in places(CHECKPOINT, CONFIG))
REST = CHECKPOINT.nbytes - EXPERTS
LEAST = least_bytes(places(CHECKPOINT, CONFIG), 2)
AUTO, RESIDENT_ONLY = ExpertOptions.of(), ExpertOptions.of("resident")


def test_what_fits_is_in_memory() -> None:
    for options in (AUTO, RESIDENT_ONLY):
        found = decide(CHECKPOINT, CONFIG, RESIDENT, options, RESIDENT.total)
        assert found == (RESIDENT, None)


def test_what_does_not_fit_is_streamed() -> None:
    """With all slots that there is room for beside the rest."""
    budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, RESIDENT.total - 1)
    assert plan is not None
    for limit in (40 * GB, 110 * GB, 200 * GB):
        budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, limit)
        assert plan is not None
        assert budget.slab == plan.nbytes
        assert budget.weights == REST + plan.nbytes
        assert budget.kv == RESIDENT.kv
        assert budget.working > RESIDENT.working  # as many tokens go through a layer together
        assert limit - 71 * 10**6 < budget.total <= limit  # not one expert more


def test_what_is_held_already_is_no_room() -> None:
    held = 7 * GB
    total = RESIDENT.total
    assert decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, total + held, held)[1] is None
    _, plan = decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, total + held - 1, held)
    assert plan is not None
    with_less = decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, 100 * GB - held)
    assert decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, 100 * GB, held) == with_less


def test_resident_experts_are_never_streamed() -> None:
    found = decide(CHECKPOINT, CONFIG, RESIDENT, RESIDENT_ONLY, 100 * GB)
    assert found == (RESIDENT, None)


@pytest.mark.parametrize(
    "options",
    [
        ExpertOptions.of("stream"),
        ExpertOptions.of(look_ahead=True),
        ExpertOptions.of(memory="300GB"),
    ],
)
def test_whoever_asks_for_streaming_gets_it(options: ExpertOptions) -> None:
    """Also where all would fit; there is then a slot for every expert, and no more memory."""
    budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, options, 600 * GB)
    assert plan is not None
    assert plan.slots == plan.keys == 24 * 128
    assert plan.nbytes < EXPERTS + 10**6
    assert budget.weights == REST + plan.nbytes


def test_expert_memory_is_what_slots_take() -> None:
    options = ExpertOptions.of(memory="20GB")
    budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, options, 600 * GB)
    assert plan is not None
    assert 20 * GB - 71 * 10**6 < plan.nbytes <= 20 * GB
    assert budget.slab == plan.nbytes


@pytest.mark.parametrize("limit", [64 * GB + more * 10**6 for more in (0, 20, 40, 60, 80)])
def test_too_much_expert_memory(limit: int) -> None:
    """What is advised instead can be given."""
    with pytest.raises(DoesNotFit, match=r"90\.0 GB .*for experts do not fit") as e:
        decide(CHECKPOINT, CONFIG, RESIDENT, ExpertOptions.of(memory="90GB"), limit, 2 * GB)
    found = re.search(r"give at most --expert-memory (\S+)$", str(e.value))
    assert found
    options = ExpertOptions.of(memory=found[1])
    budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, options, limit, 2 * GB)
    assert plan is not None
    assert budget.total + 2 * GB <= limit
    assert plan.nbytes > 38 * GB
    more = ExpertOptions.of(memory=f"{float(found[1][:-2]) + 0.2:.1f}GB")
    with pytest.raises(DoesNotFit):
        decide(CHECKPOINT, CONFIG, RESIDENT, more, limit, 2 * GB)


def test_too_much_expert_memory_on_a_small_machine() -> None:
    limit = RESIDENT.streamed(REST, 0).total + LEAST + 5 * 10**6
    with pytest.raises(DoesNotFit, match=r"give at most --expert-memory (146|147)MB"):
        decide(CHECKPOINT, CONFIG, RESIDENT, ExpertOptions.of(memory="1GB"), limit)
    options = ExpertOptions.of(memory="146MB")
    assert decide(CHECKPOINT, CONFIG, RESIDENT, options, limit)[1] is not None


def test_too_little_expert_memory() -> None:
    for said in (1, LEAST - 1):
        with pytest.raises(DoesNotFit, match="too little to stream any.* give more expert memory"):
            decide(CHECKPOINT, CONFIG, RESIDENT, ExpertOptions.of(memory=said), 600 * GB)
    _, plan = decide(CHECKPOINT, CONFIG, RESIDENT, ExpertOptions.of(memory=LEAST), 600 * GB)
    assert plan is not None
    assert plan.slots == 2


@pytest.mark.parametrize("mode", ["auto", "stream"])
def test_a_machine_too_small_for_two_slots(mode: str) -> None:
    """The least that it would take is what does not fit."""
    options, limit = ExpertOptions.of(mode), RESIDENT.streamed(REST, LEAST).total
    _, plan = decide(CHECKPOINT, CONFIG, RESIDENT, options, limit)
    assert plan is not None
    assert plan.slots == 2
    budget, plan = decide(CHECKPOINT, CONFIG, RESIDENT, options, limit - 1)
    assert plan is None
    assert budget.total == limit
    with pytest.raises(DoesNotFit):
        memory.check(budget, limit - 1, "maverick")


def test_arrays_that_may_not_be_larger() -> None:
    _, plan = decide(CHECKPOINT, CONFIG, RESIDENT, AUTO, 100 * GB, largest=2 * GB)
    assert plan is not None
    assert all(
        bank.slots * part.memory(2) < 2 * GB for bank in plan.banks for part in bank.layers[0].parts
    )


def test_values_in_float32() -> None:
    """As on a CPU: scales and biases take twice as much."""
    resident = Budget.of(CONFIG, CHECKPOINT.nbytes * 9 // 8, 32768, element_bytes=4)
    budget, plan = decide(CHECKPOINT, CONFIG, resident, AUTO, 100 * GB)
    assert plan is not None
    assert {bank.element for bank in plan.banks} == {4}
    assert 99 * GB < budget.total <= 100 * GB


PUBLISHED = full_size.checkpoint(Path("/models/published"))


def test_experts_as_published_can_only_be_in_memory() -> None:
    config = ModelConfig.from_dict(full_size.config())
    resident = Budget.of(config, PUBLISHED.nbytes, 32768)
    for limit in (100 * GB, 1000 * GB):
        assert decide(PUBLISHED, config, resident, AUTO, limit) == (resident, None)
        with pytest.raises(UsageError, match="run 'mlx-maverick convert' on it to stream them"):
            decide(PUBLISHED, config, resident, ExpertOptions.of("stream"), limit)
    assert not streamable(PUBLISHED, config, resident, 100 * GB)


def test_a_damaged_folder_says_so() -> None:
    name = next(name for name in CHECKPOINT.tensors if ".experts." in name)
    less = Checkpoint(CHECKPOINT.folder, {n: t for n, t in CHECKPOINT.tensors.items() if n != name})
    with pytest.raises(BadCheckpoint, match=name):
        decide(less, CONFIG, RESIDENT, AUTO, 100 * GB)


def test_a_model_without_experts() -> None:
    dense = replace(CONFIG, text=replace(CONFIG.text, moe_layers=(False,) * 48))
    assert decide(CHECKPOINT, dense, RESIDENT, AUTO, 10 * GB) == (RESIDENT, None)
    with pytest.raises(UsageError, match="has no routed experts; leave --experts out"):
        decide(CHECKPOINT, dense, RESIDENT, ExpertOptions.of(memory="5GB"), 10 * GB)


def test_scout(scout_mini: Path) -> None:
    """Every layer has experts there."""
    config = ModelConfig.from_folder(scout_mini)
    assert all(config.text.moe_layers)
    checkpoint = Checkpoint.open(scout_mini)
    resident = Budget.of(config, checkpoint.nbytes, 4096)
    with pytest.raises(UsageError, match="convert"):
        decide(checkpoint, config, resident, ExpertOptions.of("stream"), 10 * GB)


def test_what_would_be_streamed() -> None:
    least = RESIDENT.streamed(REST, LEAST).total
    assert streamable(CHECKPOINT, CONFIG, RESIDENT, least)
    assert not streamable(CHECKPOINT, CONFIG, RESIDENT, least - 1)
    assert streamable(CHECKPOINT, CONFIG, RESIDENT, least + GB, GB)
    assert not streamable(CHECKPOINT, CONFIG, RESIDENT, least + GB - 1, GB)
