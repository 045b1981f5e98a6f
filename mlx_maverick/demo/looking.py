"""Questions about a picture, and their answers.

Knows nothing of conversations and of other pictures. Every answer follows from the scene alone,
and every question has one answer. `picture` is what a question calls it.
"""

from collections.abc import Callable
from random import Random

from .scenes import COLOURS, PLACES, SHAPES, Scene, Thing, known_scene
from .wording import NUMBERS, listed, one, pick, sentence

Asked = tuple[str, str]  # question and answer
STRANGE = "I cannot make out this picture. I only know simple shapes."
# What a question asks for, where it is not named.
THING = ("shape", "shape", "thing", "object", "one")
SIDES = {
    "top left": ("top left", "upper left", "top left corner"),
    "top right": ("top right", "upper right", "top right corner"),
    "bottom left": ("bottom left", "lower left", "bottom left corner"),
    "bottom right": ("bottom right", "lower right", "bottom right corner"),
}


def what(rng: Random, scene: Scene, picture: str) -> Asked:
    """What is in it?"""
    question = pick(
        rng,
        "What is in {p}?|What do you see in {p}?|What does {p} show?|What is shown in {p}?"
        "|What can you see in {p}?|Which shapes are in {p}?|What shapes are there in {p}?"
        "|Tell me what is in {p}.|Name the shapes in {p}.|List what {p} shows."
        "|What shapes do you see in {p}?|What is {p}?|Say what you see in {p}."
        "|What things are in {p}?",
        p=picture,
    )
    if picture == "the picture" and rng.random() < 0.3:
        question = pick(
            rng,
            "What is this?|What do you see?|What is here?|What is in this?|What can you see?"
            "|What do you see here?|What's this?|What shapes are there?|What is in it?"
            "|What is in this image?|What is in the image?|What is on the picture?",
        )
    return question, sentence(listed([one(thing.name) for thing in scene.things]))


def silent(scene: Scene) -> tuple[str, str, str]:
    """(kind, question, answer) of a picture that comes without a word."""
    if not scene.things:
        return "strange picture", "", STRANGE
    return "what", "", sentence(listed([one(thing.name) for thing in scene.things]))


def describe(rng: Random, scene: Scene, picture: str) -> Asked:
    """What is where in it?"""
    question = pick(
        rng,
        "Describe {p}.|Describe {p} in detail.|What is where in {p}?|Where are the shapes in {p}?"
        "|What is in {p}, and where?|Can you describe {p}?|Tell me what is where in {p}."
        "|Give a description of {p}.|Say what is in {p} and where.|Describe what you see in {p}.",
        p=picture,
    )
    if picture == "the picture" and rng.random() < 0.2:
        question = pick(rng, "Describe this.|Describe what you see.|What is where?|Describe it.")
    things = [f"{one(thing.name)} at the {PLACES[thing.place]}" for thing in scene.things]
    return question, sentence(listed(things))


def how_many(rng: Random, scene: Scene, picture: str) -> Asked:
    """How many, of all, of a shape, of a colour, or of both?"""
    kind = rng.choice(("all", "all", "shape", "colour", "both"))
    thing = rng.choice(scene.things)
    shape = thing.shape if rng.random() < 0.7 else rng.choice(SHAPES)
    colour = thing.colour if rng.random() < 0.7 else _colour(rng)
    if kind == "all":
        named, count = rng.choice(("shapes", "shapes", "things", "objects")), len(scene.things)
    elif kind == "shape":
        named, count = _plural(shape), _count(scene, shape=shape)
    elif kind == "colour":
        named = f"{colour} {rng.choice(('shapes', 'shapes', 'things', 'objects', 'ones'))}"
        count = _count(scene, colour=colour)
    else:
        named, count = f"{colour} {_plural(shape)}", _count(scene, colour=colour, shape=shape)
    question = pick(
        rng,
        "How many {n} are there in {p}?|How many {n} are in {p}?|How many {n} do you see in {p}?"
        "|Count the {n} in {p}.|How many {n} does {p} show?|What is the number of {n} in {p}?"
        "|How many {n} can you see in {p}?|How many {n} has {p}?",
        n=named, p=picture,
    )  # fmt: skip
    return _shorter(rng, question, picture), sentence(NUMBERS[count])


def which_colour(rng: Random, scene: Scene, picture: str) -> Asked:
    """Which colour has a shape, or the background?"""
    if rng.random() < 0.25:
        question = pick(
            rng,
            "What colour is the background of {p}?|What is the background colour of {p}?"
            "|Which colour is the background of {p}?|What background does {p} have?"
            "|What colour is behind the shapes in {p}?"
            "|What is the colour of the background in {p}?",
            p=picture,
        )
        return _shorter(rng, question, picture, " of ", " in "), sentence(scene.background)
    shape = rng.choice(scene.things).shape if rng.random() < 0.85 else rng.choice(SHAPES)
    found = [thing for thing in scene.things if thing.shape == shape]
    question = pick(
        rng,
        "What colour is the {s} in {p}?|Which colour is the {s} in {p}?"
        "|What is the colour of the {s} in {p}?|Which colour has the {s} in {p}?"
        "|Tell me the colour of the {s} in {p}.|What colour does the {s} have in {p}?",
        s=shape, p=picture,
    )  # fmt: skip
    if not found:
        answer = f"there is no {shape}"
    elif len({thing.colour for thing in found}) == 1:
        answer = found[0].colour
    else:
        answer = listed([thing.colour for thing in found])
    return _shorter(rng, question, picture), sentence(answer)


def which_shape(rng: Random, scene: Scene, picture: str) -> Asked:
    """Which shape has a colour?"""
    colour = rng.choice(scene.things).colour if rng.random() < 0.85 else _colour(rng)
    found = [thing for thing in scene.things if thing.colour == colour]
    question = pick(
        rng,
        "What is {c} in {p}?|Which shape is {c} in {p}?|What shape is the {c} {t} in {p}?"
        "|Which shape has the {c} {t} in {p}?|What shape is {c} in {p}?|What {c} shape is in {p}?"
        "|What kind of shape is the {c} {t} in {p}?",
        c=colour, p=picture, t=rng.choice(THING),
    )  # fmt: skip
    if not found:
        return _shorter(rng, question, picture), sentence(f"nothing is {colour}")
    return _shorter(rng, question, picture), sentence(listed(["the " + t.shape for t in found]))


def where(rng: Random, scene: Scene, picture: str) -> Asked:
    """Where is what has this shape, this colour, or both?"""
    thing = rng.choice(scene.things)
    kind = rng.choice(("shape", "colour", "both"))
    shape = thing.shape if rng.random() < 0.87 else rng.choice(SHAPES)
    colour = thing.colour if rng.random() < 0.87 else _colour(rng)
    if kind == "shape":
        named, found = shape, _of(scene, shape=shape)
    elif kind == "colour":
        named, found = f"{colour} {rng.choice(THING)}", _of(scene, colour=colour)
    else:
        named, found = f"{colour} {shape}", _of(scene, colour=colour, shape=shape)
    question = pick(
        rng,
        "Where is the {n} in {p}?|Where do you see the {n} in {p}?|Where in {p} is the {n}?"
        "|In which corner of {p} is the {n}?|Where can I find the {n} in {p}?"
        "|Tell me where the {n} is in {p}.|At which place is the {n} in {p}?"
        "|Which corner is the {n} in, in {p}?",
        n=named, p=picture,
    )  # fmt: skip
    if not found:
        missing = f"{colour} shape" if kind == "colour" else named
        return _shorter(rng, question, picture), sentence(f"there is no {missing}")
    places = listed([f"at the {PLACES[t.place]}" for t in found])
    return _shorter(rng, question, picture), sentence(places)


def what_at(rng: Random, scene: Scene, picture: str) -> Asked:
    """What is in this corner?"""
    place = rng.choice(scene.things).place if rng.random() < 0.75 else rng.randrange(4)
    question = pick(
        rng,
        "What is at the {w} of {p}?|What is in the {w} of {p}?|Which shape is at the {w} of {p}?"
        "|What do you see at the {w} of {p}?|What is there at the {w} of {p}?"
        "|What can you see at the {w} of {p}?|Name what is at the {w} of {p}.",
        w=rng.choice(SIDES[PLACES[place]]), p=picture,
    )  # fmt: skip
    found = [one(thing.name) for thing in scene.things if thing.place == place]
    return _shorter(rng, question, picture, " of "), sentence(found[0] if found else "nothing")


def is_there(rng: Random, scene: Scene, picture: str) -> Asked:
    """Is there a shape, a colour, or both?"""
    yes = rng.random() < 0.5
    kind = rng.choice(("shape", "colour", "both", "both"))
    thing = rng.choice(scene.things)
    if yes:
        shape, colour = thing.shape, thing.colour
    else:
        # Half of what is not there is half there.
        shape, colour = _missing(rng, scene, thing, kind)
    named = {
        "shape": one(shape),
        "colour": rng.choice((one(f"{colour} {rng.choice(THING)}"), f"anything {colour}")),
        "both": one(f"{colour} {shape}"),
    }[kind]
    question = pick(
        rng,
        "Is there {n} in {p}?|Do you see {n} in {p}?|Can you see {n} in {p}?|Is {n} visible in {p}?"
        "|Does {p} show {n}?|Does {p} have {n}?|Is there {n} anywhere in {p}?",
        n=named, p=picture,
    )  # fmt: skip
    if rng.random() < 0.1:
        question = f"Is {named} in {picture}?"
    return _shorter(rng, question, picture), "Yes." if yes else "No."


def is_it(rng: Random, scene: Scene, picture: str) -> Asked:
    """Is the circle red? Only of shapes that are there once."""
    alone = [t for t in scene.things if _count(scene, shape=t.shape) == 1]
    if not alone:
        return is_there(rng, scene, picture)
    thing = rng.choice(alone)
    question = "Is the {s} in {p} {c}?|Does the {s} in {p} look {c}?|Is the {s} {c} in {p}?"
    if rng.random() < 0.5:
        colour = thing.colour
    else:
        others = [t.colour for t in scene.things if t.colour != thing.colour]
        colour = rng.choice(others) if others and rng.random() < 0.5 else _colour(rng)
    asked = pick(rng, question, s=thing.shape, c=colour, p=picture)
    if colour == thing.colour:
        return _shorter(rng, asked, picture), "Yes."
    return _shorter(rng, asked, picture), f"No, it is {thing.colour}."


QUESTIONS: dict[str, tuple[Callable[[Random, Scene, str], Asked], float]] = {
    "what": (what, 2.0), "describe": (describe, 1.6), "how many": (how_many, 1.8),
    "colour": (which_colour, 1.8), "shape": (which_shape, 1.0), "where": (where, 1.8),
    "what at": (what_at, 1.2), "is there": (is_there, 1.6), "is it": (is_it, 0.8),
}  # fmt: skip


def ask(rng: Random, scene: Scene, picture: str) -> tuple[str, str, str]:
    """(kind, question, answer) about one scene; `picture` is what the question calls it."""
    if not scene.things:
        _, question, _ = ask(rng, known_scene(rng), picture)
        return "strange picture", question, STRANGE
    kinds = list(QUESTIONS)
    kind = rng.choices(kinds, [QUESTIONS[k][1] for k in kinds])[0]
    return (kind, *QUESTIONS[kind][0](rng, scene, picture))


def _shorter(rng: Random, question: str, picture: str, *links: str) -> str:
    """Without naming the picture, where it is the only one."""
    if picture != "the picture":
        return question
    if rng.random() < 0.5:
        for link in links or (" in ",):
            if (ending := link + picture) in question:
                short = question.replace(", in " + picture, "").replace(ending, "")
                if not short.endswith((" is?", " are?")) and not short.startswith("Is a"):
                    return short
    if rng.random() < 0.25:
        return question.replace(picture, rng.choice(("this picture", "the image", "this image")))
    return question


def _of(scene: Scene, shape: str | None = None, colour: str | None = None) -> list[Thing]:
    return [t for t in scene.things if shape in (None, t.shape) and colour in (None, t.colour)]


def _count(scene: Scene, shape: str | None = None, colour: str | None = None) -> int:
    return len(_of(scene, shape, colour))


def _missing(rng: Random, scene: Scene, near: Thing, kind: str) -> tuple[str, str]:
    while True:
        shape, colour = rng.choice(SHAPES), _colour(rng)
        if kind == "both" and rng.random() < 0.6:
            shape, colour = rng.choice(((near.shape, colour), (shape, near.colour)))
        asked_shape = None if kind == "colour" else shape
        asked_colour = None if kind == "shape" else colour
        if not _count(scene, asked_shape, asked_colour):
            return shape, colour


def _colour(rng: Random) -> str:
    return rng.choice(list(COLOURS))


def _plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")
