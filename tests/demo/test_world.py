"""Whole conversations of the demo's world: the same everywhere, balanced, right."""

import hashlib
import re
from collections import Counter
from random import Random

import pytest

from mlx_maverick.demo import looking, talking, words
from mlx_maverick.demo.scenes import HELD_OUT
from mlx_maverick.demo.words import DAYS, HELD_OUT_NAMES, NAMES, OPPOSITES, SPELLED
from mlx_maverick.demo.world import SEEN, Conversation, conversation

COUNT = 1500


@pytest.fixture(scope="module")
def talks() -> list[Conversation]:
    return [conversation("train", n) for n in range(COUNT)]


def test_it_is_the_world_that_the_model_was_trained_on() -> None:
    """If this fails, so does the model's accuracy: train it again, or undo the change."""
    said = hashlib.sha256()
    for split in ("train", "test", "unseen"):
        for number in range(200):
            talk = conversation(split, number)
            scenes = [scene for turn in talk.turns for scene in turn.scenes]
            turns = [(turn.kind, turn.question, turn.answer) for turn in talk.turns]
            said.update(repr((talk.system, turns, scenes)).encode())
    assert said.hexdigest() == "6573e59e2f454b6eda527bf6d7300a53edbcd4d9dbaac74e465188d27e443201"


def test_splits_share_no_conversation(talks: list[Conversation]) -> None:
    long = {talk for talk in talks if len(talk.turns) > 2}
    assert len(long) > 400
    assert long.isdisjoint(conversation("test", n) for n in range(COUNT))


def test_messages_take_turns_and_hold_the_pictures(talks: list[Conversation]) -> None:
    for talk in talks:
        roles = [message["role"] for message in talk.messages]
        assert roles == ["system"] * bool(talk.system) + ["user", "assistant"] * len(talk.turns)
        parts = [
            part["type"]
            for m in talk.messages
            if isinstance(m["content"], list)
            for part in m["content"]
        ]
        assert parts.count("image") == sum(len(turn.scenes) for turn in talk.turns)
    lengths = Counter(len(talk.turns) for talk in talks)
    assert set(lengths) >= {1, 2, 3, 4, 6, 9, 14, 22}
    assert 0.2 < sum(talk.system is not None for talk in talks) / COUNT < 0.4


def test_every_kind_is_asked_often(talks: list[Conversation]) -> None:
    kinds = Counter(turn.kind for talk in talks for turn in talk.turns)
    assert set(kinds) == {
        *looking.QUESTIONS, *talking.QUESTIONS, "name", "no picture", "strange picture",
        "two pictures",
    }  # fmt: skip
    assert min(kinds.values()) / kinds.total() > 0.015
    pictures = sum(kinds[kind] for kind in SEEN) / kinds.total()
    assert 0.3 < pictures < 0.6


def test_no_picture_is_known_before_it_is_shown(talks: list[Conversation]) -> None:
    for talk in talks:
        shown = 0
        for turn in talk.turns:
            if turn.kind == "no picture":
                assert shown == 0
            shown += len(turn.scenes)
            if turn.kind in SEEN:
                assert shown > 0
            for number, word in enumerate(("first", "second", "third"), 1):
                if f"{word} picture" in turn.question and turn.kind in looking.QUESTIONS:
                    assert shown >= number


def test_the_unnamed_picture_is_the_newest() -> None:
    checked = 0
    for number in range(COUNT):
        shown = []
        for turn in conversation("test", number).turns:
            shown += turn.scenes
            named = re.search("(first|second|third) picture|pictures", turn.question)
            if turn.kind != "how many" or not re.search("shapes|things|objects", turn.question):
                continue
            if named or meant_by_colour(turn.question):
                continue
            words = ("None.", "One.", "Two.", "Three.")
            assert turn.answer == words[len(shown[-1].things)], turn.question
            checked += len(shown) > 1
    assert checked > 5


def meant_by_colour(question: str) -> bool:
    return bool(re.search("red|green|blue|yellow|orange|purple|black|white", question.lower()))


def test_names_are_remembered() -> None:
    known, unknown = 0, 0
    for number in range(COUNT):
        name = None
        for turn in conversation("test", number).turns:
            if turn.kind != "name":
                continue
            if turn.answer.startswith("Nice to meet you, "):
                name = turn.answer.removeprefix("Nice to meet you, ").rstrip(".")
                assert name in turn.question
            else:
                assert turn.answer == (
                    f"Your name is {name}." if name else "I do not know your name."
                )
                known, unknown = known + bool(name), unknown + (not name)
    assert min(known, unknown) > 50


def test_sums() -> None:
    for held_out in (False, True):
        for seed in range(1500):
            question, answer = talking.sums(Random(seed), held_out)
            text = question.replace("plus", "+").replace("minus", "-").replace("times", "*")
            a, sign, b = re.search(r"(\d+) ?([-+*x]) ?(\d+)", text).groups()
            expected = {"+": int(a) + int(b), "-": int(a) - int(b)}.get(sign, int(a) * int(b))
            assert answer == f"{expected}.", question
            assert talking.is_held_out(int(a), int(b)) == held_out


def test_hard_sums_are_none_that_it_knows() -> None:
    for seed in range(1500):
        question, answer = talking.hard_sums(Random(seed))
        a, b = map(int, re.findall(r"\d+", question))
        times = re.search("times|[*x]", question)
        assert answer == talking.TOO_HARD
        assert "divided" in question or "/" in question or max(a, b) > (10 if times else 20)


def test_comparisons() -> None:
    answers = Counter()
    for seed in range(1500):
        question, answer = talking.comparisons(Random(seed))
        a, b = map(int, re.findall(r"\d+", question))
        if answer in ("Yes.", "No."):
            more = re.search("bigger|larger|more|>", question)
            less = re.search("less|smaller|<", question)
            assert answer == ("Yes." if (a > b if more else a < b if less else a == b) else "No.")
        else:
            assert a != b
            largest = re.search("bigger|larger|more|greater", question)
            assert answer == f"{max(a, b) if largest else min(a, b)}.", question
        answers[answer] += 1
    assert 0.5 < answers["Yes."] / answers["No."] < 1.3


def test_days() -> None:
    for seed in range(500):
        question, answer = talking.days(Random(seed))
        [today] = [n for n, day in enumerate(DAYS) if day in question]
        step = 1
        if re.search("before|yesterday", question):
            step = -1
        elif re.search("two days|day after tomorrow", question):
            step = 2
        assert answer == DAYS[(today + step) % 7] + ".", question


def test_opposites_are_each_others() -> None:
    assert len(words.OPPOSITE) == 2 * len(OPPOSITES)  # no word has two
    for seed in range(300):
        question, answer = talking.opposites(Random(seed))
        assert words.OPPOSITE[answer[:-1].lower()] in question


def test_spelling() -> None:
    for seed in range(500):
        question, answer = talking.spelling(Random(seed))
        words = [word for word in re.findall("[a-z]+", question) if word in SPELLED]
        if re.search("How many|long|Count", question):
            assert answer in {f"{len(word)}." for word in words}, question
        elif re.search("first letter|(hich|hat) letter", question):
            assert answer in {f"{word[0].upper()}." for word in words}, question
        else:
            assert answer.replace("-", "").rstrip(".").lower() in words, question


def test_what_it_declines_has_no_other_answer() -> None:
    known = {
        question.lower()
        for seed in range(3000)
        for kind in talking.QUESTIONS
        if kind not in ("unknown", "hard sum")
        for question in [talking.QUESTIONS[kind][0](Random(seed))[0]]
    }
    for seed in range(3000):
        question, answer = talking.unknown(Random(seed))
        assert answer == talking.DECLINED
        assert question.lower() not in known


def test_training_never_shows_what_is_held_out(talks: list[Conversation]) -> None:
    text = "\n".join(turn.question for talk in talks for turn in talk.turns)
    assert not [name for name in HELD_OUT_NAMES if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    assert set(HELD_OUT_NAMES).isdisjoint(NAMES)
    things = {(t.colour, t.shape) for talk in talks for turn in talk.turns
              for scene in turn.scenes for t in scene.things}  # fmt: skip
    assert HELD_OUT.isdisjoint(things)
    for talk in talks:
        for turn in talk.turns:
            if turn.kind == "sum":
                a, b = map(int, re.findall(r"\d+", turn.question))
                assert not talking.is_held_out(a, b)


def test_unseen_conversations_show_it() -> None:
    turns = [turn for n in range(300) for turn in conversation("unseen", n).turns]
    firsts = [turn.scenes[0].things[0] for turn in turns if turn.scenes]
    assert firsts
    assert all((thing.colour, thing.shape) in HELD_OUT for thing in firsts)
    names = [t.answer[18:-1] for t in turns if t.answer.startswith("Nice to meet you, ")]
    assert names
    assert set(names) <= {name for n in HELD_OUT_NAMES for name in (n, n.lower())}
