"""Answers about pictures are right: worked out here from the question's own words."""

import re
from collections import Counter
from random import Random

import pytest

from mlx_maverick.demo import comparing, looking
from mlx_maverick.demo.scenes import COLOURS, PLACES, SHAPES, Scene, Thing, make_scene

WORDS = {"None.": 0, "One.": 1, "Two.": 2, "Three.": 3}
CORNERS = {
    "top left": "upper left", "top right": "upper right", "bottom left": "lower left",
    "bottom right": "lower right",
}  # fmt: skip


def scene_of(*named: str, background: str = "grey") -> Scene:
    """From `red circle@0`: colour, shape and place."""
    things = []
    for name in named:
        colour, shape, place = re.split("[ @]", name)
        things.append(Thing(shape, colour, int(place), (0, 0, 0), 0.8, (0.0, 0.0), 0.0))
    return Scene(tuple(things), background, (128, 128, 128), 60, 60)


TRIO = scene_of("red circle@0", "red square@1", "blue circle@3")
PAIR = scene_of("green star@1", "black ring@2", background="white")
SCENES = [TRIO, PAIR, scene_of("white cross@2", background="pink")]


def asked(kind: str, scene: Scene, count: int = 400) -> list[tuple[str, str]]:
    question = looking.QUESTIONS[kind][0]
    return [question(Random(seed), scene, "the picture") for seed in range(count)]


def meant(question: str, scene: Scene) -> list[Thing]:
    """The things of the scene that fit the colour and shape in the question."""
    text = question.lower()
    colours = [c for c in COLOURS if re.search(rf"\b{c}\b", text)]
    shapes = [s for s in SHAPES if re.search(rf"\b{s}(s|es)?\b", text)]
    return [
        t
        for t in scene.things
        if t.colour in (colours or COLOURS) and t.shape in (shapes or SHAPES)
    ]


@pytest.mark.parametrize("scene", SCENES)
def test_how_many(scene: Scene) -> None:
    for question, answer in asked("how many", scene):
        assert WORDS[answer] == len(meant(question, scene)), question


@pytest.mark.parametrize("scene", SCENES)
def test_where(scene: Scene) -> None:
    for question, answer in asked("where", scene):
        named = [place for place in PLACES if place in answer]
        assert sorted(named) == sorted(PLACES[t.place] for t in meant(question, scene)), question
        assert bool(named) != answer.startswith("There is no ")


@pytest.mark.parametrize("scene", SCENES)
def test_what_at(scene: Scene) -> None:
    for question, answer in asked("what at", scene):
        [place] = [p for p, other in CORNERS.items() if p in question or other in question]
        there = [t.name for t in scene.things if PLACES[t.place] == place]
        assert (answer == "Nothing.") == (not there), question
        assert all(name in answer for name in there)


@pytest.mark.parametrize("scene", SCENES)
def test_colours(scene: Scene) -> None:
    for question, answer in asked("colour", scene):
        if "background" in question or "behind" in question:
            assert answer == scene.background.capitalize() + "."
            continue
        colours = {c for c in COLOURS if c in answer.lower()}
        assert colours == {t.colour for t in meant(question, scene)}, question
        assert bool(colours) != answer.startswith("There is no ")


@pytest.mark.parametrize("scene", SCENES)
def test_shapes(scene: Scene) -> None:
    for question, answer in asked("shape", scene):
        found = sorted(s for s in SHAPES for _ in range(answer.count("e " + s)))
        assert found == sorted(t.shape for t in meant(question, scene)), question
        assert bool(found) != answer.startswith("Nothing is ")


@pytest.mark.parametrize("scene", SCENES)
def test_is_there(scene: Scene) -> None:
    answers = Counter()
    for question, answer in asked("is there", scene):
        assert answer == ("Yes." if meant(question, scene) else "No."), question
        answers[answer] += 1
    assert 0.4 < answers["Yes."] / answers.total() < 0.6


@pytest.mark.parametrize("scene", SCENES[1:])
def test_is_it(scene: Scene) -> None:
    for question, answer in asked("is it", scene):
        [thing] = [t for t in scene.things if t.shape in question]
        expected = "Yes." if thing.colour in question else f"No, it is {thing.colour}."
        assert answer == expected, question


def test_what_and_describe() -> None:
    assert {a for _, a in asked("what", TRIO)} == {"A red circle, a red square and a blue circle."}
    assert {a for _, a in asked("describe", PAIR)} == {
        "A green star at the top right and a black ring at the bottom left."
    }
    orange = scene_of("orange star@0")
    assert {a for _, a in asked("what", orange)} == {"An orange star."}


def test_what_and_describe_share_no_question() -> None:
    """Else a question would have two answers."""
    questions = [{q for q, _ in asked(kind, TRIO, 2000)} for kind in looking.QUESTIONS]
    seen = Counter(question for asked_so in questions for question in asked_so)
    assert [q for q, kinds in seen.items() if kinds > 1] == []


def test_two_pictures() -> None:
    seen = set()
    for seed in range(600):
        _, question, answer = comparing.compare(Random(seed), [TRIO, PAIR])
        if "more" in question:
            assert answer == "The first."
        elif "shows" in answer:
            assert answer == (
                "The first shows a red circle, a red square and a blue circle, "
                "the second a green star and a black ring."
            )
        else:
            has = bool(meant(question, TRIO)), bool(meant(question, PAIR))
            named = {(True, False): "The first.", (False, True): "The second."}
            assert answer == named.get(has, "Both." if has[0] else "Neither."), question
        seen.add(answer)
    assert {"The first.", "The second.", "Neither."} <= seen


def test_the_picture_is_named_where_there_are_several() -> None:
    for seed in range(500):
        kind, question, _ = looking.ask(Random(seed), TRIO, "the second picture")
        assert "the second picture" in question, (kind, question)


def test_a_strange_picture_and_none_at_all() -> None:
    strange = next(s for s in map(make_scene, map(Random, range(400))) if not s.things)
    for seed in range(100):
        assert looking.ask(Random(seed), strange, "the picture")[2] == looking.STRANGE
        assert comparing.blind(Random(seed))[2] == comparing.BLIND
    assert looking.silent(strange) == ("strange picture", "", looking.STRANGE)
    assert looking.silent(PAIR) == ("what", "", "A green star and a black ring.")
