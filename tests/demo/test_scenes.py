"""Pictures of the demo's world show what their scenes say."""

from random import Random

import numpy as np
from PIL import Image

from mlx_maverick.demo.scenes import COLOURS, HELD_OUT, PLACES, SHAPES, Scene, Thing, make_scene
from mlx_maverick.images import best_grid

RED, PAINT = (255, 0, 0), (250, 250, 250)
SIDE = 200


def drawn(shape: str, place: int = 0, size: float = 0.9, turn: float = 0.0) -> np.ndarray:
    """Where a shape alone is red: [SIDE, SIDE] of bool."""
    thing = Thing(shape, "red", place, RED, size, (0.0, 0.0), turn)
    picture = Scene((thing,), "white", PAINT, SIDE, SIDE).picture
    assert picture.mode == "RGB"
    assert picture.size == (SIDE, SIDE)
    return np.asarray(picture)[..., 1] < 125


def test_every_place_is_its_own_quarter() -> None:
    for place in range(len(PLACES)):
        seen = drawn("circle", place)
        quarters = [seen[:100, :100], seen[:100, 100:], seen[100:, :100], seen[100:, 100:]]
        assert [n for n, quarter in enumerate(quarters) if quarter.any()] == [place]


def test_shapes_have_their_areas() -> None:
    """Of the circle around them."""
    areas = {shape: drawn(shape).sum() / (np.pi * 45**2) for shape in SHAPES}
    expected = {
        "circle": 1.0, "square": 2 / np.pi, "triangle": 3 * 3**0.5 / 4 / np.pi,
        "ring": 1 - 0.55**2, "cross": (8 * 0.34 - 4 * 0.34**2) / (1 + 0.34**2) / np.pi,
    }  # fmt: skip
    for shape, area in expected.items():
        assert abs(areas[shape] - area) < 0.02, shape
    assert 0.3 < areas["star"] < 0.45
    assert not drawn("cross")[12, 12:22].any()  # unlike the square, which fills its corners
    assert drawn("square")[22, 22:78].all()
    middle = {shape: bool(drawn(shape)[50, 50]) for shape in SHAPES}
    assert middle == {shape: shape != "ring" for shape in SHAPES}


def test_a_triangle_stands_on_its_side() -> None:
    seen = drawn("triangle")
    widths = seen.sum(axis=1)
    assert 0 < widths[8] < widths[40] < widths[66]
    assert (drawn("triangle", turn=10) != seen).any()


def test_edges_are_smooth() -> None:
    thing = Thing("circle", "red", 0, RED, 0.9, (0.0, 0.0), 0.0)
    greens = np.asarray(Scene((thing,), "white", PAINT, SIDE, SIDE).picture)[..., 1]
    assert len(np.unique(greens)) > 2


def test_a_scene_and_its_picture_follow_from_the_seed() -> None:
    for seed in range(30):
        one, other = make_scene(Random(seed)), make_scene(Random(seed))
        assert one == other
        assert one.picture.tobytes() == other.picture.tobytes()
    assert len({make_scene(Random(seed)) for seed in range(300)}) == 300


def test_scenes_are_what_the_world_promises() -> None:
    scenes = [make_scene(Random(seed)) for seed in range(2000)]
    known = [scene for scene in scenes if scene.things]
    assert 0.03 < 1 - len(known) / len(scenes) < 0.07  # strange ones
    for scene in known:
        places = [thing.place for thing in scene.things]
        assert places == sorted(set(places))  # in reading order, one each
        assert scene.background not in {thing.colour for thing in scene.things}
        assert HELD_OUT.isdisjoint((t.colour, t.shape) for t in scene.things)
    pairs = {(t.colour, t.shape) for scene in known for t in scene.things}
    assert pairs == {(c, s) for c in COLOURS for s in SHAPES} - HELD_OUT
    counts = [sum(len(s.things) == n for s in known) / len(known) for n in (1, 2, 3)]
    assert min(counts) > 0.15


def test_held_out_pairs_come_first_when_asked_for() -> None:
    for seed in range(50):
        scene = make_scene(Random(seed), held_out=True)
        assert (scene.things[0].colour, scene.things[0].shape) in HELD_OUT


def test_pictures_come_to_many_grids_of_tiles() -> None:
    scenes = [make_scene(Random(seed)) for seed in range(2000)]
    grids = [best_grid(scene.width, scene.height, 56) for scene in scenes]
    assert 0.35 < grids.count((1, 1)) / len(grids) < 0.6
    assert {(1, 2), (2, 1), (2, 2), (3, 2), (2, 3), (3, 3), (4, 4), (2, 4), (5, 3)} <= set(grids)
    assert max(rows * columns for rows, columns in grids) == 16


def test_strange_pictures_are_full_of_things() -> None:
    strange = [s for s in map(make_scene, map(Random, range(400))) if not s.things]
    assert strange
    for scene in strange:
        assert isinstance(scene.picture, Image.Image)
        assert scene.picture.size == (scene.width, scene.height)
        assert np.asarray(scene.picture).std() > 5
