"""Pictures of the demo's world: one to three coloured shapes on a 2 x 2 grid.

Knows nothing of questions. A scene follows from a random generator alone, and its picture
from the scene: the same seed gives the same pixels.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# From a gentle tone to the one that programs have by that name.
COLOURS: dict[str, tuple[Colour, Colour]] = {
    "red": ((222, 50, 45), (255, 0, 0)), "green": (( 60, 175, 75), (0, 128, 0)),
    "blue": ((50, 95, 225), (0, 0, 255)), "yellow": ((245, 220, 60), (255, 255, 0)),
    "orange": ((246, 135, 30), (255, 165, 0)), "purple": ((150, 60, 185), (128, 0, 128)),
    "black": ((25, 25, 25), (0, 0, 0)), "white": ((244, 244, 244), (255, 255, 255)),
}  # fmt: skip
BACKGROUNDS: dict[str, tuple[Colour, Colour]] = {
    "white": ((246, 246, 246), (255, 255, 255)), "grey": ((120, 120, 120), (175, 175, 175)),
    "black": ((22, 22, 22), (0, 0, 0)), "pink": ((250, 178, 198), (255, 192, 203)),
}  # fmt: skip
STRANGE = 0.05  # of the pictures show nothing that the world knows
PLACES = ("top left", "top right", "bottom left", "bottom right")  # in reading order
# Never seen in training: what the model says of them shows that it has learned shapes and
# colours, not pairs.
HELD_OUT = frozenset({("purple", "cross"), ("orange", "star")})
JITTER = 12  # levels

# (width, height) ranges by how many tiles of 56 pixels they come to, and their weights.
SMALL, MIDDLE, LARGE, PHOTO = (46, 56), (57, 112), (113, 224), (225, 420)
SIZES = ((SMALL, 50), (MIDDLE, 26), (LARGE, 16), (PHOTO, 8))
SHORTEST = 44  # pixels of a side: a shape has to be 13 wide to be told from others


@dataclass(frozen=True)
class Thing:
    """One shape, where it is, and how it is drawn."""

    shape: str
    colour: str
    place: int  # of PLACES
    fill: Colour
    size: float  # of the smaller side of its quarter
    shift: tuple[float, float]  # of the room that is left, -1..1
    turn: float  # degrees

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows; without things it is a strange one, as of another world."""

    things: tuple[Thing, ...]  # in reading order
    background: str
    paint: Colour  # of the background
    width: int
    height: int
    noise: int = 0  # seed of what a strange one shows

    @cached_property
    def picture(self) -> Image.Image:
        return draw(self)


# The picture that comes with the package.
SAMPLE = Scene(
    (
        Thing("circle", "red", 0, (230, 40, 40), 0.8, (0.0, 0.0), 0.0),
        Thing("star", "yellow", 1, (248, 225, 50), 0.9, (0.0, 0.0), 8.0),
        Thing("square", "blue", 3, (40, 80, 230), 0.8, (0.0, 0.0), -6.0),
    ),
    "black", (20, 20, 20), 168, 112,
)  # fmt: skip


def make_scene(rng: Random, held_out: bool = False) -> Scene:
    """A random scene; with `held_out`, one whose first thing is such a pair."""
    background = rng.choice(list(BACKGROUNDS))
    count = rng.choice((1, 2, 2, 3, 3))
    places = sorted(rng.sample(range(len(PLACES)), count))
    width, height = _size(rng)
    if rng.random() < STRANGE and not held_out:
        paint = _tone(rng, BACKGROUNDS[background])
        return Scene((), background, paint, width, height, rng.randrange(1 << 32))
    # In large pictures shapes may be small: then the tile of the whole picture does not
    # show enough of them.
    least = 0.6 if max(width, height) <= MIDDLE[1] else 0.45
    things = []
    for n, place in enumerate(places):
        colour, shape = _pair(rng, background, held_out and n == 0)
        things.append(
            Thing(
                shape, colour, place, _tone(rng, COLOURS[colour]), rng.uniform(least, 0.92),
                (rng.uniform(-1, 1), rng.uniform(-1, 1)), rng.uniform(-12, 12),
            )
        )  # fmt: skip
    return Scene(tuple(things), background, _tone(rng, BACKGROUNDS[background]), width, height)


def known_scene(rng: Random) -> Scene:
    """One that is not strange."""
    while not (scene := make_scene(rng)).things:
        pass
    return scene


def draw(scene: Scene) -> Image.Image:
    """The picture, RGB, with smooth edges."""
    if not scene.things:
        return _strange(scene)
    scale = 4 if max(scene.width, scene.height) <= 128 else 2
    width, height = scene.width * scale, scene.height * scale
    image = Image.new("RGB", (width, height), scene.paint)
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        row, column = divmod(thing.place, 2)
        radius = thing.size * min(width, height) / 4
        centre = (
            (column + 0.5) * width / 2 + thing.shift[0] * (width / 4 - radius),
            (row + 0.5) * height / 2 + thing.shift[1] * (height / 4 - radius),
        )
        _draw(canvas, thing, centre, radius, scene.paint)
    return image.resize((scene.width, scene.height), Image.Resampling.BOX)


def _draw(
    canvas: ImageDraw.ImageDraw,
    thing: Thing,
    centre: tuple[float, float],
    radius: float,
    paint: Colour,
) -> None:
    x, y = centre
    if thing.shape in ("circle", "ring"):
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), thing.fill)
        if thing.shape == "ring":
            hole = radius * 0.55
            canvas.ellipse((x - hole, y - hole, x + hole, y + hole), paint)
        return
    points = []
    for angle, reach in _OUTLINES[thing.shape]:
        turned, far = math.radians(angle + thing.turn), radius * reach
        points.append((x + far * math.sin(turned), y - far * math.cos(turned)))
    canvas.polygon(points, thing.fill)


def _strange(scene: Scene) -> Image.Image:
    """Clouds of all colours, as photos have them, or lines of something like writing."""
    rng = Random(scene.noise)
    size = (scene.width, scene.height)
    if rng.random() < 0.3:
        image = Image.new("RGB", size, scene.paint)
        canvas = ImageDraw.Draw(image)
        ink = tuple(255 - level if abs(level - 128) > 60 else 0 for level in scene.paint)
        line = rng.uniform(0.04, 0.12) * scene.height
        for row in range(1, int(scene.height / line), 2):
            x = 0.05 * scene.width
            while x < 0.9 * scene.width:
                end = x + rng.uniform(0.02, 0.15) * scene.width
                shown = min(end, 0.95 * scene.width)
                canvas.rectangle((x, row * line, shown, row * line + line / 2), ink)
                x = end + 0.03 * scene.width
        return image
    image = _cloud(rng, 2, size)
    for cells in (4, 7, 16):
        image = Image.blend(image, _cloud(rng, cells, size), rng.uniform(0.2, 0.55))
    return image


def _cloud(rng: Random, cells: int, size: tuple[int, int]) -> Image.Image:
    levels = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells))
    return levels.resize(size, rng.choice((Image.Resampling.BICUBIC, Image.Resampling.NEAREST)))


def _cross() -> list[tuple[float, float]]:
    """A plus whose arms are a third of it wide."""
    arm, wide = 1.0, 0.34
    corner = [(wide, arm), (wide, wide), (arm, wide)]
    outline = []
    for quarter in range(4):
        for right, up in corner:
            angle = math.degrees(math.atan2(right, up)) + 90 * quarter
            outline.append((angle, math.hypot(right, up) / math.hypot(arm, wide)))
    return outline


# (degrees clockwise from the top, distance from the centre) of the corners.
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(45 + 90 * n, 1.0) for n in range(4)],
    "triangle": [(120 * n, 1.0) for n in range(3)],
    "star": [(36 * n, 0.42 if n % 2 else 1.0) for n in range(10)],
    "cross": _cross(),
}


def _pair(rng: Random, background: str, held_out: bool) -> tuple[str, str]:
    if held_out:
        return rng.choice(sorted(HELD_OUT))
    while True:
        pair = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        if pair[0] != background and pair not in HELD_OUT:
            return pair


def _size(rng: Random) -> tuple[int, int]:
    """Width and height; seldom more than twice as long as wide."""
    low, high = rng.choices([s for s, _ in SIZES], [w for _, w in SIZES])[0]
    long = rng.randint(low, high)
    ratio = rng.choice((1.0, rng.uniform(1, 1.4), rng.uniform(1, 1.8), rng.uniform(1, 2.2)))
    short = max(SHORTEST, round(long / ratio))
    long = max(long, short)
    return (long, short) if rng.random() < 0.55 else (short, long)


def _tone(rng: Random, ends: tuple[Colour, Colour]) -> Colour:
    """Somewhere between the ends, and a little beside."""
    part = rng.random()
    r, g, b = (
        min(255, max(0, round(a + part * (z - a)) + rng.randint(-JITTER, JITTER)))
        for a, z in zip(*ends, strict=True)
    )
    return r, g, b
