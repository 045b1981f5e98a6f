"""What training reads is what the model is given later."""

import signal
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mlx_maverick.demo import folder
from mlx_maverick.demo.batches import (
    FINDING_GROUPS,
    GROUP,
    HARD_GROUPS,
    LAST_GROUPS,
    MIXED_GROUPS,
    PAIRING_GROUPS,
    SHORT_GROUPS,
    SIZE,
    Batch,
    Encoder,
)
from mlx_maverick.demo.feed import received, stream
from mlx_maverick.demo.world import (
    FINDING,
    RECKONING,
    conversation,
)


@pytest.fixture(scope="module")
def encoder(made: Path) -> Encoder:
    return Encoder(made)


def test_answers_are_where_they_are_said_to_be(encoder: Encoder) -> None:
    for number in range(200):
        talk, example = conversation("train", number), encoder.example("train", number)
        said = [
            encoder.prompt.decode(example.ids[first : last - 1]) for first, last in example.answers
        ]
        assert said == [turn.answer for turn in talk.turns][: len(said)]
        assert all(example.ids[last - 1] == encoder.eot for _, last in example.answers)
        assert example.ids.count(folder.token_id("<|patch|>")) == 4 * len(example.tiles)


def test_long_conversations_are_cut_between_turns(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = next(n for n in range(500) if len(conversation("train", n).turns) == 14)
    whole = encoder.example("train", number)
    monkeypatch.setattr("mlx_maverick.demo.batches.LONGEST", len(whole.ids) - 1)
    cut = encoder.example("train", number)
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert cut.answers == whole.answers[:-1]
    assert len(cut.kinds) == 13


def test_many_conversations_cross_chunks_and_many_pictures_have_tiles(encoder: Encoder) -> None:
    examples = [encoder.example("train", n) for n in range(400)]
    assert sum(len(e.ids) > 128 for e in examples) / 400 > 0.25
    assert sum(len(e.ids) > 256 for e in examples) > 20
    assert max(len(e.ids) for e in examples) <= 1024


def test_training_begins_with_short_conversations(encoder: Encoder) -> None:
    early = [*encoder.group("train", 0), *encoder.group("train", SHORT_GROUPS - 1)]
    later = encoder.group("train", SHORT_GROUPS)
    for batches, most in ((early, 2), (later, 22)):
        answers = [np.bincount(batch.answers[:, 0]).max() for batch in batches]
        assert max(answers) == most


def same(one: Batch, other: Batch) -> bool:
    return one.kinds == other.kinds and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("ids", "lengths", "answers", "tiles")
    )


def test_for_a_while_all_has_to_be_found_in_pictures(encoder: Encoder) -> None:
    batches = encoder.group("train", FINDING_GROUPS[0])
    assert {kind for batch in batches for kind in batch.kinds} == {*FINDING}
    tests = encoder.group("test", FINDING_GROUPS[0])
    assert "opposite" in {kind for batch in tests for kind in batch.kinds}


def test_then_all_kinds_come_back_beside_more_to_find_and_sums(encoder: Encoder) -> None:
    def share(group: int, kinds: Iterable[str]) -> float:
        asked = [kind for batch in encoder.group("train", group) for kind in batch.kinds]
        return sum(kind in kinds for kind in asked) / len(asked)

    all_kinds = LAST_GROUPS[-1] + 1
    for groups in (MIXED_GROUPS, HARD_GROUPS, LAST_GROUPS):
        assert share(groups[0], RECKONING) > 1.1 * share(all_kinds, RECKONING)
        assert share(groups[0], ["opposite", "describe", "unknown"]) > 0.05
    for groups in (MIXED_GROUPS, LAST_GROUPS):
        assert share(groups[0], FINDING) > 1.1 * share(all_kinds, FINDING)
    for groups in (PAIRING_GROUPS, HARD_GROUPS, LAST_GROUPS):
        assert share(groups[0], ["two pictures"]) > 2 * share(all_kinds, ["two pictures"])


def test_a_stream_goes_on_anywhere(made: Path, encoder: Encoder) -> None:
    """The process that makes them begins in the middle of a group."""
    expected = [*encoder.group("train", 0), *encoder.group("train", 1)]
    assert len(expected) == 2 * GROUP
    assert sorted(len(b.lengths) for b in expected) == [SIZE] * 2 * GROUP
    later = list(islice(stream(made, "train", GROUP - 2), 4))
    assert all(map(same, later, expected[GROUP - 2 :]))


def test_batches_pad_on_the_right(encoder: Encoder) -> None:
    examples = [encoder.example("train", n) for n in range(3)]
    batch = encoder.batch(examples)
    for row, example in enumerate(examples):
        assert batch.ids[row, : len(example.ids)].tolist() == example.ids
        assert set(batch.ids[row, len(example.ids) :].tolist()) <= {encoder.pad}
    spans = [(row, *span) for row, e in enumerate(examples) for span in e.answers]
    assert [tuple(answer) for answer in batch.answers.tolist()] == spans
    assert len(batch.tiles) == sum(len(e.tiles) for e in examples)


def test_the_process_ends_when_nobody_reads(made: Path) -> None:
    """Also where its reader was killed."""
    command = [sys.executable, "-m", "mlx_maverick.demo.feed", str(made), "train", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        assert process.stderr is not None
        complaints = process.stderr.read()
        process.wait(timeout=60)
    assert complaints == b""


def test_batches_survive_a_pause_of_the_process(made: Path, encoder: Encoder) -> None:
    """As when somebody stops the training for a while: the pipe is full then, and a write
    half done."""
    command = [sys.executable, "-m", "mlx_maverick.demo.feed", str(made), "train", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = received(process.stdout)
        assert process.stdout.peek(1)  # type: ignore[attr-defined]  # the next is on its way
        for _ in range(5):
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
        second = received(process.stdout)
        process.terminate()
    assert all(map(same, first, encoder.group("train", 0)))
    assert all(map(same, second, encoder.group("train", 1)))
