"""Which expert is in which slot: nothing is lost, nothing is twice, the oldest goes."""

import numpy as np
import pytest

from mlx_maverick.streaming.slots import NONE, Slots


def test_empty_slots_are_filled_first() -> None:
    slots = Slots(3, 10)
    for key in (7, 2, 5):
        slots.put(key, slots.victim(), 1)
    assert sorted(slots.key_of.tolist()) == [2, 5, 7]
    assert [slots.find(key) for key in range(10)].count(NONE) == 7


def use(slots: Slots, step: int, *keys: int, rows: int = 1) -> None:
    slots.touch(np.array(keys), np.full(len(keys), rows), step)


def test_what_was_used_longest_ago_goes_first() -> None:
    slots = Slots(3, 10)
    for step, key in enumerate((7, 2, 5), 1):
        slots.put(key, slots.victim(), step)
    use(slots, 4, 7, rows=1)
    use(slots, 5, 2, rows=100)
    assert slots.key_of[slots.victim()] == 5  # though it was read last
    use(slots, 6, 5)
    assert slots.key_of[slots.victim()] == 7


def test_of_one_step_what_was_used_less_often_goes_first() -> None:
    slots = Slots(3, 10)
    for key in (7, 2, 5):
        slots.put(key, slots.victim(), 1)
    use(slots, 2, 7, rows=5)
    use(slots, 2, 2, rows=3)
    use(slots, 2, 5, rows=4)
    assert slots.key_of[slots.victim()] == 2
    use(slots, 2, 2, rows=3)
    assert slots.key_of[slots.victim()] == 5


def test_pinned_slots_stay() -> None:
    slots = Slots(3, 10)
    for step, key in enumerate((7, 2, 5), 1):
        slots.put(key, slots.victim(), step)
    oldest = slots.find(7)
    assert slots.key_of[slots.victim({oldest})] == 2
    assert slots.victim({0, 1, 2}) == NONE


def test_uses_of_experts_that_are_in_no_slot_count_as_well() -> None:
    slots = Slots(1, 4)
    use(slots, 1, 0, 3, rows=2)
    assert slots.uses.tolist() == [2, 0, 0, 2]
    assert slots.victim() == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_against_a_plain_list(seed: int) -> None:
    """The same victims as from (last step, uses) of each slot, looked at one by one."""
    draw = np.random.default_rng(seed)
    count, keys = int(draw.integers(1, 9)), int(draw.integers(9, 30))
    slots = Slots(count, keys)
    held: dict[int, int] = {}  # slot -> key
    last: dict[int, int] = {}  # slot -> step
    uses = [0] * keys
    for step in range(1, 200):
        wanted = draw.choice(keys, int(draw.integers(1, 4)), replace=False)
        rows = draw.integers(1, 4, len(wanted))
        slots.touch(wanted, rows, step)
        for key, more in zip(wanted.tolist(), rows.tolist(), strict=True):
            uses[key] += more
        for slot, key in held.items():
            if key in wanted:
                last[slot] = step
        pinned: set[int] = set()
        for key in wanted.tolist():
            slot = slots.find(key)
            assert (slot == NONE) == (key not in held.values())
            if slot == NONE:
                slot = slots.victim(pinned)
                free = [s for s in range(count) if s not in pinned]
                if not free:
                    assert slot == NONE
                    continue
                rank = {s: (last.get(s, -1), uses[held[s]] if s in held else -1) for s in free}
                assert slot in free
                assert rank[slot] == min(rank.values())
                slots.put(key, slot, step)
                held[slot], last[slot] = key, step
            assert held[slot] == key
            pinned.add(slot)
        if draw.random() < 0.1:
            slot = int(draw.integers(count))
            slots.drop(slot)
            held.pop(slot, None)
            last.pop(slot, None)
        assert len(set(held.values())) == len(held)
        assert [slots.find(key) for key in range(keys)] == [
            next((s for s, k in held.items() if k == key), NONE) for key in range(keys)
        ]


def test_what_a_pass_has_been_through_goes_before_what_it_may_still_come_to() -> None:
    """Else the experts of later layers would be thrown out just before they are wanted."""
    slots = Slots(8, 20)
    for key in range(8):
        slots.put(key, slots.victim(), 1)
    use(slots, 2, 0, 1, 2, rows=9)
    assert slots.key_of[slots.victim(passing=2)] in range(3, 8)  # too few to choose from
    use(slots, 2, 3, rows=5)
    assert slots.key_of[slots.victim(passing=2)] == 3
    assert slots.key_of[slots.victim({slots.find(3)}, passing=2)] in range(4, 8)
    assert slots.key_of[slots.victim()] in range(4, 8)
