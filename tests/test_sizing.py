"""Sizing: predicted bytes are those that are written, and every Mac gets the right recipe."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlx_maverick import macs, sizing
from mlx_maverick.checkpoint import INDEX, Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import convert
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.published import shapes
from mlx_maverick.convert.recipe import OFFERED, Recipe
from mlx_maverick.errors import DoesNotFit, UsageError
from mlx_maverick.kv import KVOptions
from mlx_maverick.macs import GIB, Machine, mac
from mlx_maverick.memory import Budget
from mlx_maverick.model import load_model
from mlx_maverick.published_models import MODELS
from mlx_maverick.sizing import Size, Verdict, choose, fit
from mlx_maverick.streaming.places import places
from mlx_maverick.streaming.plan import least_bytes

from .convert import full_size

GB = 10**9
MAVERICK, SCOUT = MODELS["maverick"].config, MODELS["scout"].config
CONTEXT = 32768

# Decimal GB on disk, from the published shapes and bits + 32 / group per weight.
TABLE = {
    "e2g128r4": 118.5, "e2r4": 130.5, "e2r6": 134.1, "e3g128r6": 170.3, "e3r6": 182.4,
    "e4r4": 227.2, "e4r6": 230.7, "e4r8": 234.2, "e5r8": 282.6, "e6r8": 330.9, "e8r8": 427.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def sizes() -> dict[str, Size]:
    return {size.recipe.name: size for size in sizing.sizes(MAVERICK, CONTEXT)}


def test_published_models_have_the_published_tensors() -> None:
    assert shapes(MAVERICK) == full_size.SHAPES
    scout = shapes(SCOUT)
    parameters = 0
    for shape in scout.values():
        count = 1
        for n in shape:
            count *= n
        parameters += count
    assert parameters == 108_641_793_536  # as the Hub counts them


def test_the_table(sizes: dict[str, Size]) -> None:
    assert list(sizes) == list(TABLE)
    for name, size in sizes.items():
        assert round(size.disk / GB, 1) == TABLE[name], name
        tensors = sum(entry.nbytes for entry in outputs(MAVERICK, size.recipe))
        assert size.budget.weights == tensors  # bf16 and packed words stay as they are
        assert 0 < size.disk - tensors < 2 * 10**6  # headers and the index


@pytest.mark.parametrize(
    "recipe",
    [Recipe.parse(name) for name in ("e2g128r4", "e3r6", "e8r8")]
    + [Recipe.parse("e4r4", ["routed@first,last=+1", "lm_head=bf16", "router=8", "vision=6"])],
    ids=lambda recipe: recipe.name,
)
def test_converted_folders_have_the_predicted_bytes(
    recipe: Recipe, mini: Path, tmp_path: Path
) -> None:
    convert(mini, tmp_path / "out", recipe)
    files = [*(tmp_path / "out").glob("*.safetensors"), tmp_path / "out" / INDEX]
    checkpoint = Checkpoint.open(tmp_path / "out")
    config = ModelConfig.from_folder(mini)
    for element in (2, 4):
        size = sizing.size(config, recipe, 100, element_bytes=element)
        assert size.disk == sum(file.stat().st_size for file in files)
        weights = checkpoint.memory(element)
        assert size.budget == Budget.of(config, weights, 100, element_bytes=element)
    routed = [t.nbytes for n, t in checkpoint.tensors.items() if ".feed_forward.experts." in n]
    assert sizing.size(config, recipe, 100).experts == sum(routed)


def test_bytes_read_for_a_token(sizes: dict[str, Size]) -> None:
    """24 of the experts, and of all else neither pictures nor the embedding but one row."""
    e4r4 = sizes["e4r4"]
    always_on = 3.020e9 + 6.040e9 + 3.020e9 + 1.034e9  # attention, dense, shared, lm_head
    routed = 24 * 3 * 5120 * 8192
    assert e4r4.experts * 8 / 4.5 == routed * 128
    assert e4r4.read == pytest.approx((always_on + routed) * 4.5 / 8 + 2 * 0.0157e9, rel=1e-3)
    assert e4r4.ceiling(819 * GB, cached=False) == pytest.approx(90, abs=0.5)
    full = 819 * GB / (e4r4.read + e4r4.budget.kv)
    assert e4r4.ceiling(819 * GB, cached=True) == full < 70


def test_bytes_read_are_those_of_the_network(mini: Path, tmp_path: Path) -> None:
    """From another side: what the loaded network holds in its layers."""
    recipe = Recipe.parse("e4r6")
    convert(mini, tmp_path / "out", recipe)
    config = ModelConfig.from_folder(mini)
    size = sizing.size(config, recipe, 100, element_bytes=4)
    tensors = Checkpoint.open(tmp_path / "out").tensors
    floats = {n: t.size * 4 if t.dtype == "BF16" else t.nbytes for n, t in tensors.items()}
    unread = sum(n for name, n in floats.items() if "vision" in name or "multi_modal" in name)
    embedding = sum(n for name, n in floats.items() if "embed_tokens" in name)
    text = config.text
    spared = size.experts * (text.num_local_experts - 1) // text.num_local_experts
    spared += embedding * (text.vocab_size - 1) // text.vocab_size
    assert size.read == sum(floats.values()) - unread - spared
    assert load_model(tmp_path / "out").nbytes >= size.budget.weights


@pytest.mark.parametrize(("bits", "share"), [(None, 1.0), (8, 8.5 / 16), (4, 4.5 / 16)])
def test_quantised_caches_are_smaller(bits: int | None, share: float) -> None:
    whole = sizing.size(MAVERICK, OFFERED[0], 131072).budget.kv
    size = sizing.size(MAVERICK, OFFERED[0], 131072, KVOptions(bits))
    assert size.budget.kv == whole * share


@pytest.mark.parametrize(
    ("memory", "recipe", "verdict"),
    [
        (128, "e2g128r4", Verdict.RAISED),
        (192, "e3g128r6", Verdict.RAISED),
        (256, "e4r6", Verdict.FITS),
        (512, "e8r8", Verdict.FITS),
    ],
)
def test_the_choice_for_every_mac(memory: int, recipe: str, verdict: Verdict) -> None:
    machine = mac(memory * GIB)
    choice = choose(MAVERICK, machine)
    assert (choice.recipe.name, choice.verdict) == (recipe, verdict)
    size = sizing.size(MAVERICK, choice.recipe, CONTEXT)
    assert (choice.command is None) == (verdict is Verdict.FITS)
    if choice.command:
        wanted = int(choice.command.removeprefix("sudo sysctl iogpu.wired_limit_mb=")) * 2**20
        assert machine.limit < size.budget.total <= wanted <= machine.raised_limit


@pytest.mark.parametrize(("memory", "share"), [(48, "8 %"), (64, "14 %"), (96, "26 %")])
def test_macs_that_have_no_room_stream(memory: int, share: str) -> None:
    """Experts with 4 bits, as more are read for every miss; 6 for what every token passes."""
    machine = mac(memory * GIB)
    choice = choose(MAVERICK, machine)
    assert (choice.recipe.name, choice.verdict) == ("e4r6", Verdict.STREAMED)
    assert choice.why == (
        "needs 236.3 GB, and no recipe fits; with its experts streamed from the SSD it needs "
        f"20.3 GB, and there is room for {share} of them"
    )
    assert choice.command is None


def test_macs_that_have_hardly_room_to_stream() -> None:
    """With 6 bits for the rest there would be room for 4 % of the experts even with a raised
    limit, and with 4 as it is set as well."""
    machine = mac(32 * GIB)
    choice = choose(MAVERICK, machine)
    assert (choice.recipe.name, choice.verdict) == ("e4r4", Verdict.STREAMED)
    assert choice.why.endswith("it needs 16.7 GB, and there is room for 6 % of them")
    raised = machine.raised_limit // 2**20
    assert choice.command == f"sudo sysctl iogpu.wired_limit_mb={raised}"


def test_streaming_holds_a_whole_prompt(sizes: dict[str, Size]) -> None:
    """32,768 tokens, each with 8 hidden states in bf16, beside a step of 2,048 as always. A
    picture, for which room is left in any case, is not there at the same time."""
    e4r4 = sizes["e4r4"]
    together = 32768 * 8 * 5120 * 2
    token = 4 * 5120 + 3 * (40 + 2 * 8) * 128 + 3 * 16384
    step = 2048 * token * 2 * 4 + 202048 * 4
    rest = e4r4.budget.weights - e4r4.experts + e4r4.budget.kv
    assert e4r4.shared == rest + step + together
    assert step < e4r4.budget.working < step + together
    short = sizing.size(MAVERICK, e4r4.recipe, 4096)
    assert short.shared == short.budget.total - short.experts  # a picture takes more
    longer = sizing.size(MAVERICK, e4r4.recipe, 131072)
    assert longer.shared - longer.budget.kv == e4r4.shared - e4r4.budget.kv  # in several passes


def test_macs_that_cannot_even_stream() -> None:
    with pytest.raises(DoesNotFit) as error:
        choose(MAVERICK, mac(24 * GIB))
    said = str(error.value)
    assert error.value.exit_code == 4
    assert "\n" not in said
    assert "a Mac with 24 GB at 32,768 tokens" in said
    assert "the smallest, e2g128r4, needs 124.0 GB" in said
    assert "streamed from the SSD e4r4 needs 27.6 GB, and a model gets at most 22.5 GB" in said
    assert said.endswith("; use a Mac with 64 GB")


def test_what_is_better_than_two_or_three_bits(sizes: dict[str, Size]) -> None:
    every = list(sizes.values())

    def better(memory: int) -> str | None:
        one = mac(memory * GIB)
        found = sizing.more_bits(every, one, sizing.choose_from(every, one))
        return found.size.recipe.name if found else None

    assert [better(n) for n in (64, 128, 192, 256, 512)] == [None, "e4r6", "e4r6", None, None]
    short = [sizes[name] for name in ("e2g128r4", "e2r4")]  # of 2 bits as well
    mac128 = mac(128 * GIB)
    assert sizing.more_bits(short, mac128, sizing.choose_from(short, mac128)) is None
    # Where e4r6 leaves room for hardly any expert.
    limit = sizes["e4r4"].with_slots(0.06).total
    choice = sizing.choose_from(every, machine(limit, limit))
    assert (choice.recipe.name, choice.verdict) == ("e4r4", Verdict.STREAMED)


def test_why() -> None:
    assert choose(MAVERICK, mac(192 * GIB)).why == (
        "needs 175.9 GB; within the limit of 154.6 GB the largest is e2r6"
    )
    assert choose(MAVERICK, mac(128 * GIB)).why == (
        "needs 124.0 GB; within the limit of 115.4 GB there is none"
    )
    assert choose(MAVERICK, mac(256 * GIB)).why == (
        "needs 236.3 GB and fits the limit of 239.0 GB; the next larger, e4r8, needs 239.8 GB"
    )


def test_context_and_cache_bits_decide_as_well() -> None:
    """At a million tokens the cache takes 52.7 GB, or 14.8 with 4 bits."""
    machine = mac(256 * GIB)
    assert choose(MAVERICK, machine, 1048576).recipe.name == "e3g128r6"
    assert choose(MAVERICK, machine, 1048576, KVOptions(4)).recipe.name == "e4r4"
    bounded = KVOptions(max_size=8192)
    assert choose(MAVERICK, machine, 1048576, bounded).recipe.name == "e4r8"
    assert choose(MAVERICK, machine, 1048576, bounded).verdict is Verdict.FITS
    small = mac(32 * GIB)
    with pytest.raises(DoesNotFit, match="use --context ") as error:
        choose(MAVERICK, small, 262144)
    context = int(str(error.value).split("--context ")[1].split(",")[0])
    assert choose(MAVERICK, small, context).recipe.name == "e4r4"
    with pytest.raises(DoesNotFit, match=", or use --kv-bits 8"):
        choose(MAVERICK, small, context + 256)
    assert choose(MAVERICK, small, context + 256, KVOptions(8)).recipe.name == "e4r4"
    assert choose(MAVERICK, mac(128 * GIB), 1048576).verdict is Verdict.STREAMED


def test_more_bits_of_the_rest_are_no_reason_to_raise_the_limit() -> None:
    """On 256 GB e4r8 would need it; on an older macOS e4r4 does, for a bit more of experts."""
    machine = mac(256 * GIB)
    assert fit(sizing.size(MAVERICK, Recipe.parse("e4r8"), CONTEXT), machine).verdict == "raised"
    assert choose(MAVERICK, machine).recipe.name == "e4r6"
    older = choose(MAVERICK, machine.with_limit(192 * GIB))
    assert (older.recipe.name, older.verdict) == ("e4r4", Verdict.RAISED)


def test_a_smaller_model_has_other_choices() -> None:
    assert choose(SCOUT, mac(64 * GIB)).recipe.name == "e3g128r6"
    assert choose(SCOUT, mac(192 * GIB)).recipe.name == "e8r8"


def machine(limit: int, raised: int) -> Machine:
    return Machine("a machine", raised, limit, raised, None, None, ("", ""))


def test_verdicts_to_the_byte(sizes: dict[str, Size]) -> None:
    size = sizes["e4r4"]
    need = size.budget.total
    assert fit(size, machine(need, need)).verdict is Verdict.FITS
    assert fit(size, machine(need - 1, need)).verdict is Verdict.RAISED
    assert fit(size, machine(need - 1, need - 1)).verdict is Verdict.STREAMED
    slots = size.experts // (24 * 128) * 2
    least = size.shared + slots + 9 * 4096  # each of nine arrays begins on a block's boundary
    assert size.with_slots(0).total == least
    assert fit(size, machine(least, least)).verdict is Verdict.STREAMED
    by_raising = fit(size, machine(least - 1, least))
    assert by_raising.verdict is Verdict.STREAMED
    assert by_raising.command == f"sudo sysctl iogpu.wired_limit_mb={-(-least // 2**20)}"
    assert fit(size, machine(least - 1, least - 1)).verdict is Verdict.NO


def test_a_limit_is_raised_for_experts_only_where_few_have_room(sizes: dict[str, Size]) -> None:
    size = sizes["e4r4"]
    worth = size.shared + -(-size.experts // 20)
    assert size.with_slots(0.05).total == worth
    assert fit(size, machine(worth, worth + GIB)).command is None
    raised = fit(size, machine(worth - 1, worth + GIB))
    assert raised.command is not None
    assert raised.room == worth + GIB - size.shared
    assert fit(size, machine(worth - 2, worth - 1)).command is None  # which would be no use


def test_room_for_streamed_experts(sizes: dict[str, Size]) -> None:
    made = fit(sizes["e4r4"], mac(128 * GIB))
    assert made.room == int(107.5 * GIB) - sizes["e4r4"].shared
    assert made.expert_share == pytest.approx(0.454, abs=0.0005)
    assert fit(sizes["e4r4"], mac(512 * GIB)).expert_share == 1.0


def test_the_speed_of_streamed_experts(sizes: dict[str, Size]) -> None:
    """On a Mac with 128 GB, whose memory reads 546 GB/s and whose SSD is taken to read 5."""
    size, mac128 = sizes["e4r6"], mac(128 * GIB)
    made = fit(size, mac128)
    experts = 24 * 3 * 5120 * 8192 * 4.5 / 8  # bytes of those that a token needs
    assert size.stored == size.experts == experts * 128
    said = made.prediction(mac128)
    assert said.hit_rate == pytest.approx(made.expert_share, abs=1 / (24 * 128))
    assert said.missed == pytest.approx((1 - said.hit_rate) * experts, abs=1)
    seconds = size.read / (546 * GB) + said.missed / (5 * GB)
    assert said.tps == pytest.approx(1 / seconds)
    assert said.tps_full == pytest.approx(1 / (seconds + size.budget.kv / (546 * GB)))
    assert said.words == "about 4.6 tok/s"
    faster = made.prediction(mac128.with_ssd(13 * GB, "as given"))
    assert faster.words == "about 9.9 tok/s"
    assert made.prediction(mac128, hit_rate=1.0).tps == size.ceiling(546 * GB, cached=False)


def test_experts_stay_packed_on_the_disk() -> None:
    """Where values take four bytes in memory, they still have two in the files."""
    size = sizing.size(MAVERICK, Recipe.named("e4r4"), CONTEXT, element_bytes=4)
    assert size.experts / size.stored == pytest.approx((4 + 64 / 64) / (4 + 32 / 64))
    said = fit(size, mac(64 * GIB)).prediction(mac(64 * GIB))
    assert said.missed == pytest.approx((1 - said.hit_rate) * size.stored / 128, abs=1)


@pytest.mark.parametrize("element", [2, 4])
def test_a_folder_needs_what_its_recipe_was_predicted_to(
    element: int, mini: Path, tmp_path: Path
) -> None:
    recipe = Recipe.parse("e4r6", ["router=8", "routed@first=+1"])
    convert(mini, tmp_path / "out", recipe)
    config = ModelConfig.from_folder(tmp_path / "out")
    checkpoint = Checkpoint.open(tmp_path / "out")
    need = sizing.of_folder(config, checkpoint, 100, element_bytes=element)
    size = sizing.size(ModelConfig.from_folder(mini), recipe, 100, element_bytes=element)
    for name in ("experts", "stored", "read", "shared", "least", "streamable"):
        assert getattr(need, name) == getattr(size, name), name
    assert need.budget.weights == checkpoint.memory(element) == size.budget.weights
    assert need.least == least_bytes(places(checkpoint, config), element)  # slots of two forms


def test_experts_as_published_cannot_be_streamed(mini: Path) -> None:
    config, checkpoint = ModelConfig.from_folder(mini), Checkpoint.open(mini)
    need = sizing.of_folder(config, checkpoint, 100)
    assert need.experts > 0
    assert not need.streamable
    assert fit(need, machine(need.budget.total - 1, need.budget.total - 1)).verdict is Verdict.NO


def test_contexts_that_the_model_does_not_have() -> None:
    assert sizing.checked_context(MAVERICK, None) == 32768
    for context in (0, 1048577):
        with pytest.raises(UsageError, match="1 to 1048576"):
            choose(MAVERICK, macs.mac(512 * GIB), context)


def test_nothing_loads_mlx() -> None:
    code = (
        "import sys; from mlx_maverick import sizing, macs, published_models as p;"
        "sizing.choose(p.MODELS['maverick'].config, macs.mac(2**38));"
        "sys.exit(any(m.split('.')[0] == 'mlx' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_limit_is_not_raised_for_more_than_four_bits() -> None:
    """Scout at 96 GB: e4r8 as the machine is, e5r8 only with a raised limit."""
    config, machine = MODELS["scout"].config, macs.mac(96 * macs.GIB)
    choice = sizing.choose(config, machine)
    assert (choice.recipe.name, choice.verdict, choice.command) == ("e4r8", Verdict.FITS, None)
    larger = sizing.size(config, Recipe.named("e5r8"), 32768)
    assert sizing.fit(larger, machine).verdict is Verdict.RAISED
