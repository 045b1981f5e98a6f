"""Recipes: names, rules and files, and the bits that each matrix gets from them."""

import json
from pathlib import Path

import pytest

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import published
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.recipe import DEFAULT, OFFERED, Recipe
from mlx_maverick.convert.rule import PATTERNS, kind
from mlx_maverick.errors import MaverickError, NotFound, UsageError

from . import full_size

MAVERICK = ModelConfig.from_dict(full_size.CONFIG)
LAYER = "language_model.model.layers.{}."
GATE = LAYER + "feed_forward.experts.gate_proj.weight"
DOWN = LAYER + "feed_forward.experts.down_proj.weight"
SHARED = LAYER + "feed_forward.shared_expert.up_proj.weight"
DENSE = LAYER + "feed_forward.up_proj.weight"
ATTENTION = LAYER + "self_attn.{}_proj.weight"
HEAD = "language_model.lm_head.weight"
EMBED = "language_model.model.embed_tokens.weight"
ROUTER = LAYER + "feed_forward.router.weight"
VISION = "vision_model.model.layers.{}.mlp.fc1.weight"
PROJECTOR = "multi_modal_projector.linear_1.weight"


def made(*rules: str, base: str = "e4r6") -> Recipe:
    return Recipe.parse(base, rules).resolved(MAVERICK)


def test_every_matrix_of_the_full_model_has_a_class() -> None:
    """And nothing else has: 1-D tensors, and three matrices of the vision tower."""
    shapes = published.shapes(MAVERICK)
    classes = {name: kind(name) for name in shapes}
    assert set(classes.values()) == {*PATTERNS, None}
    assert [name for name, cls in classes.items() if cls is None and len(shapes[name]) > 1] == [
        "vision_model.positional_embedding_vlm",
        "vision_model.patch_embedding.linear.weight",
    ]
    assert not [name for name, cls in classes.items() if cls and len(shapes[name]) == 1]
    counts = {cls: list(classes.values()).count(cls) for cls in PATTERNS}
    assert counts == {
        "routed_gate_up": 24, "routed_down": 24, "shared": 72, "dense": 72,
        "attention_q": 48, "attention_k": 48, "attention_v": 48, "attention_o": 48,
        "embed": 1, "lm_head": 1, "router": 24, "vision": 34 * 6 + 2, "projector": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", [
    LAYER.format(3) + "feed_forward.experts.gate_up_proj",
    LAYER.format(3) + "feed_forward.experts.7.up_proj.weight", GATE.format(3),
])  # fmt: skip
def test_experts_have_their_class_however_they_are_stored(name: str) -> None:
    assert kind(name) == "routed_gate_up"
    assert kind(name.replace("gate_up", "down").replace("up_", "down_")) in PATTERNS
    assert made("routed_gate_up=3").quant(name) == Quant(64, 3)


def test_a_named_recipe_has_two_settings() -> None:
    recipe = Recipe.named("e2g128r5g32")
    assert recipe.quant(GATE.format(1)) == recipe.quant(DOWN.format(47)) == Quant(128, 2)
    for name in (SHARED.format(1), DENSE.format(0), ATTENTION.format(0, "q"), HEAD, EMBED):
        assert recipe.quant(name) == Quant(32, 5), name
    for name in (ROUTER.format(1), VISION.format(0), PROJECTOR, LAYER + "input_layernorm.weight",
                 ATTENTION.format(0, "q").replace("weight", "bias"),
                 "vision_model.model.layers.0.mlp.fc1.bias"):  # fmt: skip
        assert recipe.quant(name) is None, name


def test_offered_recipes_are_found_by_their_names_and_grow() -> None:
    assert [Recipe.parse(recipe.name) for recipe in OFFERED] == list(OFFERED)
    assert DEFAULT in OFFERED
    sizes = [sum(entry.nbytes for entry in outputs(MAVERICK, recipe)) for recipe in OFFERED]
    assert sizes == sorted(sizes)
    assert round(sizes[0] / 1e9, 1) == 118.5
    assert round(sizes[-1] / 1e9, 1) == 427.5


def test_a_name_is_written_in_one_way() -> None:
    assert Recipe.parse("e4g64r6g64") == Recipe.parse("e4r6")
    assert Recipe.parse("e3g128r6").name == "e3g128r6"


@pytest.mark.parametrize("name", ["e4", "r4", "e4r4 ", "E4R4", "", "4bit", "e4r", "e4g64", "auto"])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=r"e<bits>.*e2g128r4, e2r4, .*e4r4, e4r6.*e8r8"):
        Recipe.parse(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("e7r4", "MLX has no 7-bit weights; 2, 3, 4, 5, 6 or 8"),
        ("e4r16", "no 16-bit"),
        ("e4g48r4", "MLX has no groups of 48 weights; 32, 64 or 128"),
        ("e4r4g256", "groups of 256"),
    ],
)
def test_bits_and_groups_that_mlx_lacks(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe.parse(name)


def test_rules_for_classes() -> None:
    recipe = made("routed_down=5", "attention=8", "attention_v=8g32", "lm_head=bf16", "router=8")
    assert recipe.quant(DOWN.format(9)) == Quant(64, 5)
    assert recipe.quant(GATE.format(9)) == Quant(64, 4)
    assert recipe.quant(ATTENTION.format(9, "v")) == Quant(32, 8)
    assert recipe.quant(ATTENTION.format(9, "o")) == Quant(64, 8)
    assert recipe.quant(HEAD) is None
    assert recipe.quant(EMBED) == Quant(64, 6)
    assert recipe.quant(ROUTER.format(9)) == Quant(64, 8)
    assert made("attention_v=8g32", "attention=8").quant(ATTENTION.format(9, "v")) == Quant(64, 8)


def test_rules_for_layers() -> None:
    recipe = made("routed@first,last=5", "dense@0-3=8", "shared@1,5,7=8", "shared=3")
    assert [recipe.quant(GATE.format(i)).bits for i in (1, 3, 45, 47)] == [5, 4, 4, 5]  # type: ignore[union-attr]
    assert [recipe.quant(DENSE.format(i)).bits for i in (0, 2, 4, 46)] == [8, 8, 6, 6]  # type: ignore[union-attr]
    # The rule with layers wins over the later one without.
    assert [recipe.quant(SHARED.format(i)).bits for i in (1, 3, 5, 7, 9)] == [8, 3, 8, 8, 3]  # type: ignore[union-attr]
    tower = made("vision@last=4")
    assert [tower.quant(VISION.format(i)) for i in (32, 33)] == [None, Quant(64, 4)]
    assert tower.quant("vision_model.vision_adapter.mlp.fc1.weight") is None


def test_steps_are_from_what_it_would_otherwise_be() -> None:
    recipe = made("routed@first,last=+1", "lm_head=+1", base="e3g128r6")
    assert recipe.quant(GATE.format(1)) == recipe.quant(DOWN.format(47)) == Quant(128, 4)
    assert recipe.quant(GATE.format(3)) == Quant(128, 3)
    assert recipe.quant(HEAD) == Quant(64, 8)  # there are no 7 bits
    twice = made("routed@first=+1", "routed_down=5", "routed@1-3=-2", base="e6r8")
    assert twice.quant(DOWN.format(1)) == Quant(64, 4)
    assert twice.quant(DOWN.format(3)) == Quant(64, 3)
    assert twice.quant(GATE.format(1)) == Quant(64, 5)
    assert twice.quant(GATE.format(3)) == Quant(64, 4)


def test_vision_leaves_bf16_what_no_program_can_hold_packed() -> None:
    recipe = made("vision=4", "projector=8")
    stays = [name for name in published.shapes(MAVERICK)
             if name.startswith("vision_model.") and name.endswith("weight")
             and "norm" not in name and recipe.quant(name) is None]  # fmt: skip
    assert stays == ["vision_model.patch_embedding.linear.weight"]
    assert recipe.quant(PROJECTOR) == Quant(64, 8)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("routed_down", "CLASS"),
        ("routed_up=5", "no class 'routed_up'; choose one of: routed, attention, routed_gate_up"),
        ("norm=4", "no class 'norm'"),
        ("=4", "no class ''"),
        ("routed=7", "MLX has no 7-bit"),
        ("routed=4g16", "MLX has no groups of 16"),
        ("routed=fp16", "'fp16' is not a setting"),
        ("routed=+0", "'\\+0' is not a setting"),
        ("routed=", "'' is not a setting"),
        ("routed@=5", "'' is not a layer"),
        ("routed@2nd=5", "'2nd' is not a layer"),
        ("routed@first-last=5", "'first-last' is not a layer"),
        ("shared@48=5", "no layer 48; this model has 0 to 47"),
        ("shared@40-48=5", "no layers 40-48"),
        ("shared@5-3=5", "no layers 5-3"),
        ("dense@1=6", "layer 1 has no dense; it is in 0, 2, 4 ... 46"),
        ("vision@34=4", "no layer 34; this model has 0 to 33"),
        ("lm_head@first=8", "lm_head is not in layers"),
        ("lm_head=+2", "no such step from 6 bits"),
        ("routed@last=-3", "no such step from 4 bits"),
        ("router=+1", "bf16, which has no steps"),
    ],
)
def test_rules_that_make_no_sense(rule: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made(rule)


def test_classes_that_the_model_lacks(scout_mini: Path) -> None:
    """All layers of Scout have experts."""
    config = ModelConfig.from_folder(scout_mini)
    with pytest.raises(UsageError, match="'dense=6': this model has no dense"):
        outputs(config, Recipe.parse("e4r4", ["dense=6"]))
    text = ModelConfig(config.text, None, None, None, None)
    with pytest.raises(UsageError, match="no vision"):
        outputs(text, Recipe.parse("e4r4", ["vision=4"]))


def test_rules_with_layers_have_to_be_resolved() -> None:
    recipe = Recipe.parse("e4r4", ["routed@last=5"])
    assert recipe.quant(HEAD) == Quant(64, 4)
    with pytest.raises(ValueError, match="not resolved"):
        recipe.quant(GATE.format(47))


def test_groups_that_do_not_divide_a_matrix(maverick_mini: Path) -> None:
    config = ModelConfig.from_folder(maverick_mini)
    with pytest.raises(UsageError, match=r"vision.*q_proj\.weight has rows of 64, which .*128"):
        outputs(config, Recipe.parse("e4r4", ["vision=4g128"]))


def test_names_of_recipes_with_rules() -> None:
    assert Recipe.parse("e3r6", ["routed_down=5"]).name == "e3r6-mixed"
    assert Recipe.parse("e3r6", []).name == "e3r6"


def test_a_description_says_everything() -> None:
    recipe = made("routed @ first, last = 5", "attention_v=8g32", base="e3g128r6")
    said = json.loads(json.dumps(recipe.describe()))
    assert said == {
        "name": "e3g128r6-mixed",
        "experts": {"group_size": 128, "bits": 3, "mode": "affine"},
        "rest": {"group_size": 64, "bits": 6, "mode": "affine"},
        "rules": ["routed@first,last=5", "attention_v=8g32"],
    }
    assert Recipe.parse("e3g128r6", said["rules"]).resolved(MAVERICK) == recipe


FILE = """
name = "mine"
base = "e3r6"

[bits]
routed_down = 4
"routed@first,last" = "+1"  # applies to down's 4 as well
attention_v = "8g32"
lm_head = "bf16"
"""


def written(folder: Path, text: str) -> str:
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


def test_a_file_is_the_same_as_its_rules(tmp_path: Path) -> None:
    recipe = Recipe.parse(written(tmp_path, FILE))
    rules = ["routed_down=4", "routed@first,last=+1", "attention_v=8g32", "lm_head=bf16"]
    assert recipe.name == "mine"
    assert recipe.rules == Recipe.parse("e3r6", rules).rules
    assert recipe.resolved(MAVERICK).quant(DOWN.format(1)) == Quant(64, 5)
    assert recipe.resolved(MAVERICK).quant(GATE.format(1)) == Quant(64, 4)
    more = Recipe.parse(written(tmp_path, FILE), ["embed=8"])
    assert more.name == "mine-mixed"
    assert len(more.rules) == 5


def test_a_files_recipe_without_a_name(tmp_path: Path) -> None:
    assert Recipe.parse(written(tmp_path, 'base = "e3r6"')) == Recipe.named("e3r6")
    unnamed = Recipe.parse(written(tmp_path, 'base = "e3r6"\n[bits]\nembed = 8'), ["router=8"])
    assert unnamed.name == "e3r6-mixed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('bits = 4\nbase = "e3r6"', "bits is not a table"),
        ("[bits]\nrouted = 4", "has no base"),
        ("base = 3", "has no base"),
        ('base = "e9r4"', "no 9-bit"),
        ('base = "e3r6"\nmode = "nf4"', "has a key 'mode'"),
        ('base = "e3r6"\n[bits]\nfoo = 4', "no class 'foo'"),
        ('base = "e3r6"\n[bits]\nembed = 4.5', "bits of 'embed' are 4.5"),
        ('base = "e3r6"\n[bits]\nembed = true', "bits of 'embed' are True"),
        ('base = "e3r6"\n[bits]\nembed = 7', "no 7-bit"),
        ('base = "e3r6"\n[bits]\nembed = +2', "needs quotes"),
        ('base = "e3r6"\n[bits]\n"routed@first" = -1', "needs quotes"),
        ('base = "e3r6"\n[bits]\nrouted@first = 4', "not TOML .*quote keys"),
        ('base = "e3r6"\n[bits]\nembed = 4\nembed = 5', "not TOML"),
        ('base = "e3r6"\nname = "../up"', r"name is '\.\./up'"),
        ('base = "e3r6"\nname = 7', "name is 7"),
        ('base = "e3r6"\nname = "e4r4"', "another recipe's"),
    ],
)
def test_files_that_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as error:
        Recipe.parse(written(tmp_path, text))
    assert "mine.toml" in str(error.value)


@pytest.mark.parametrize(("content", "error"), [(None, NotFound), (b"\xff", UsageError)])
def test_files_that_cannot_be_read(
    content: bytes | None, error: type[MaverickError], tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    if content:
        file.write_bytes(content)
    with pytest.raises(error, match=r"mine\.toml"):
        Recipe.parse(str(file))
