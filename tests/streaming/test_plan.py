"""How expert memory is shared out, with the shapes of the full-size model."""

import math
from dataclasses import replace

import pytest

from mlx_maverick.disk import BLOCK
from mlx_maverick.errors import DoesNotFit
from mlx_maverick.streaming.places import LayerPlaces, Part, places
from mlx_maverick.streaming.plan import Plan, least_bytes, share

from .full_size import converted

GB = 10**9
E4 = ("e4r6",)
MIXED = ("e4r4", "routed@1,3=6")  # layers of two forms
UNLIKE = ("e4r4", "routed@1=6", "routed@3=8", "routed@5=bf16")  # of four, three with one layer
DENSE = (None,)
ALL = (E4, MIXED, UNLIKE, DENSE, ("e2g128r4",), ("e8r8",), ("e4r4", "routed_down=6"))


def layers(recipe: tuple[str | None, ...]) -> tuple[LayerPlaces, ...]:
    return places(*converted(*recipe))


def sizes(plan: Plan) -> list[int]:
    return [bank.slot_bytes for bank in plan.banks]


def check(plan: Plan, given: tuple[LayerPlaces, ...], memory: int) -> None:
    """What holds of every plan."""
    assert plan.nbytes <= memory
    assert sorted(places.layer for bank in plan.banks for places in bank.layers) == [
        places.layer for places in given
    ]
    assert plan.keys == sum(places.experts for places in given)
    assert plan.slots == sum(bank.slots for bank in plan.banks)
    for bank in plan.banks:
        assert len({places.form for places in bank.layers}) == 1
        assert 2 <= bank.slots <= bank.keys
        parts = list(bank.layers[0].parts)
        assert bank.nbytes == sum(
            bank.slots * math.prod(part.shape) * (2 if part.floating else 4) + BLOCK
            for part in parts
        )
        for part in parts:  # what MLX's CPU kernels can count, with what it begins after
            assert bank.slots * math.prod(part.shape) + BLOCK < 2**31


@pytest.mark.parametrize("recipe", ALL)
@pytest.mark.parametrize("memory", [2, 3, 5, 10, 20, 45, 70, 90, 110, 130, 150, 200, 450, 900])
def test_every_size(recipe: tuple[str | None, ...], memory: int) -> None:
    given = layers(recipe)
    plan = share(given, 2, memory * GB)
    check(plan, given, memory * GB)
    # Nothing is left that an expert would fit in, unless there are no more, or arrays are full.
    left = memory * GB - plan.nbytes
    everything = sum(places.experts * places.memory(2) for places in given)
    if plan.slots < plan.keys and recipe not in (DENSE, UNLIKE):
        assert left < max(sizes(plan))
    if memory * GB > everything + len(plan.banks) * 9 * BLOCK and recipe not in (DENSE, UNLIKE):
        assert plan.slots == plan.keys


@pytest.mark.parametrize("recipe", ALL)
def test_every_layer_has_about_the_same_share(recipe: tuple[str | None, ...]) -> None:
    plan = share(layers(recipe), 2, 40 * GB)
    shares = [bank.slots / bank.keys for bank in plan.banks]
    # A slot more or less, and what the smallest number makes of it.
    assert max(shares) - min(shares) <= 3 / min(bank.keys for bank in plan.banks)


def test_all_slots_of_a_kind_are_shared() -> None:
    (bank,) = share(layers(E4), 2, 20 * GB).banks
    assert (len(bank.layers), bank.keys, bank.slots) == (24, 3072, 282)
    # 3 * 8192 * 5120 weights of 4.5 bits, with scales and biases.
    assert bank.slot_bytes == 3 * 8192 * 5120 * 9 // 16


def test_banks_are_as_few_as_arrays_allow() -> None:
    plan = share(layers(E4), 2, 135 * GB)
    # 409 slots of 8192 * 640 words: with a share of 62 %, five layers have no more.
    assert [len(bank.layers) for bank in plan.banks] == [4, 5, 5, 5, 5]
    full = share(layers(E4), 2, 300 * GB)
    assert [(len(bank.layers), bank.slots) for bank in full.banks] == [(3, 384)] * 8


def test_layers_of_one_bank_follow_each_other() -> None:
    plan = share(layers(MIXED), 2, 150 * GB)
    for bank in plan.banks:
        numbers = [places.layer for places in bank.layers]
        assert numbers == list(range(numbers[0], numbers[-1] + 1, 2))
    assert [places.layer for places in plan.banks[0].layers] == [1, 3]


def test_values_of_another_size() -> None:
    """Scales in float32 take twice as much; codes what they take."""
    given = layers(E4)
    weights, halves = 3 * 8192 * 5120 // 2, 3 * 8192 * 5120 // 64 * 2 * 2
    assert given[0].memory(2) == weights + halves
    assert given[0].memory(4) == weights + 2 * halves
    assert share(given, 4, 20 * GB).slots < share(given, 2, 20 * GB).slots
    check(share(given, 2, 20 * GB), given, 20 * GB)


@pytest.mark.parametrize("largest", [GB // 2, GB, 4 * GB, 8 * GB])
@pytest.mark.parametrize("recipe", [E4, MIXED])
def test_arrays_that_may_not_be_larger(recipe: tuple[str, ...], largest: int) -> None:
    given = layers(recipe)
    plan = share(given, 2, 100 * GB, largest)
    check(plan, given, 100 * GB)
    for bank in plan.banks:
        for part in bank.layers[0].parts:
            assert bank.slots * part.memory(2) + BLOCK <= largest
    unbounded = share(given, 2, 100 * GB)
    assert (len(plan.banks) > len(unbounded.banks)) == (largest < 8 * GB)


@pytest.mark.parametrize("recipe", ALL)
@pytest.mark.parametrize("element", [2, 4])
def test_the_least(recipe: tuple[str | None, ...], element: int) -> None:
    """Two slots of every form; with less there is no plan, and with more always one."""
    given = layers(recipe)
    least = least_bytes(given, element)
    plan = share(given, element, least)
    assert plan.nbytes == least
    assert [bank.slots for bank in plan.banks] == [2] * len({places.form for places in given})
    with pytest.raises(DoesNotFit, match=r"too little to stream any: .* hold 2 at a time; give"):
        share(given, element, least - 1)
    for more in range(0, 12 * GB, GB // 5):
        assert share(given, element, least + more).nbytes <= least + more


def test_no_memory_at_all() -> None:
    with pytest.raises(DoesNotFit):
        share(layers(E4), 2, 0)


def test_more_memory_never_gives_fewer_slots_to_one_form() -> None:
    given, before = layers(MIXED), 0
    for memory in range(GB, 240 * GB, GB):
        slots = share(given, 2, memory).slots
        assert slots >= before
        before = slots


def shaped(places: LayerPlaces, experts: int, values: int) -> LayerPlaces:
    """A layer with so many experts, of which each tensor has so many values."""

    def changed(part: Part) -> Part:
        nbytes = experts * values * (2 if part.floating else 4)
        return replace(part, tensor=replace(part.tensor, shape=(experts, values), nbytes=nbytes))

    projections = (
        replace(projection, parts=tuple(changed(part) for part in projection.parts))
        for projection in places.projections
    )
    return replace(places, experts=experts, projections=tuple(projections))


def test_an_expert_that_is_alone() -> None:
    """A bank has no more slots than experts, be they fewer than two."""
    alone = shaped(layers(E4)[0], 1, 1000)
    memory = alone.memory(2) + 9 * BLOCK
    for more in (0, GB):
        (bank,) = share([alone], 2, memory + more).banks
        assert (bank.slots, bank.keys, bank.nbytes) == (1, 1, memory)


def test_arrays_are_bounded_to_the_last_element() -> None:
    """Together with what comes before the first slot."""
    many = shaped(layers(E4)[0], 2**20, BLOCK)
    (bank,) = share([many], 2, 1000 * GB).banks
    assert (bank.slots + 1) * BLOCK < 2**31 <= (bank.slots + 3) * BLOCK
    (bank,) = share([many], 2, 1000 * GB, 4 * BLOCK * 1000).banks
    assert bank.slots == 999


def test_layers_that_no_array_holds_have_one_each() -> None:
    full = share(layers(DENSE), 2, 900 * GB)
    assert [(len(bank.layers), bank.slots) for bank in full.banks] == [(1, 51)] * 24
