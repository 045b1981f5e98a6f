"""The memory budget, against the published sizes of Maverick and machines of all sizes."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick import memory
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import recipe as recipes
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import DoesNotFit, UsageError
from mlx_maverick.kv import KVOptions
from mlx_maverick.memory import Budget, check, kv_bytes, longest_context, recipe_bytes
from mlx_maverick.model import load_model

GIB = 2**30
GB = 10**9
E2R4, E4R4, E4R6 = Recipe.named("e2r4"), Recipe.named("e4r4"), Recipe.named("e4r6")
REFERENCE = Path(__file__).parent / "reference"

# The published config.json of Llama-4-Maverick-17B-128E-Instruct, the keys that matter here.
MAVERICK = {
    "model_type": "llama4",
    "image_token_index": 200092,
    "text_config": {
        "hidden_size": 5120,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 202048,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 128,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 8192,
        "max_position_embeddings": 1048576,
        "use_qk_norm": False,
    },
    "vision_config": {
        "hidden_size": 1408,
        "num_hidden_layers": 34,
        "num_attention_heads": 16,
        "intermediate_size": 5632,
        "image_size": 336,
        "patch_size": 14,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    },
}


@pytest.fixture(scope="module")
def maverick() -> ModelConfig:
    return ModelConfig.from_dict(MAVERICK)


@pytest.fixture
def e4r6(maverick: ModelConfig) -> Budget:
    return Budget.of(maverick, recipe_bytes(maverick, E4R6), 32768)


@pytest.mark.parametrize(
    ("context", "gib"), [(8192, 1.5), (32768, 2.6), (131072, 7.1), (1048576, 49.1)]
)
def test_kv_cache_of_maverick(maverick: ModelConfig, context: int, gib: float) -> None:
    assert kv_bytes(maverick.text, context) / GIB == pytest.approx(gib, abs=0.05)


def test_a_quantised_kv_cache_has_a_scale_and_a_bias_for_each_group(maverick: ModelConfig) -> None:
    whole = kv_bytes(maverick.text, 32768)
    for bits in (8, 4):
        options = KVOptions(bits)
        assert kv_bytes(maverick.text, 32768, options=options) == whole * (bits + 0.5) / 16
    budget = Budget.of(maverick, 0, 32768, options=KVOptions(4))
    assert longest_context(budget, budget.total) == 32768
    assert longest_context(budget, budget.total - 1) < 32768
    assert longest_context(Budget.of(maverick, 0, 32768), budget.total) < 32768


def test_kv_cache_grows_in_steps_up_to_the_chunk(mini: Path) -> None:
    text = ModelConfig.from_folder(mini).text
    token = 2 * text.num_key_value_heads * text.head_dim * 2
    chunked = sum(text.chunked_layers)
    whole = text.num_hidden_layers - chunked
    assert kv_bytes(text, 0) == 0
    # The chunk of 32 is below one step of 256.
    for context, steps in [(1, 1), (256, 1), (257, 2), (1000, 4)]:
        assert kv_bytes(text, context) == token * (32 * chunked + 256 * steps * whole)
    assert kv_bytes(text, 1000, element_bytes=4) == 2 * kv_bytes(text, 1000)


def test_kv_cache_is_what_the_cache_allocates(maverick_mini: Path) -> None:
    network = load_model(maverick_mini, dtype=mx.float32)
    cache = network.make_cache()
    mx.eval(network(mx.arange(70)[None], cache=cache))
    assert cache.nbytes == kv_bytes(network.config.text, 70, element_bytes=4)


def test_working_room_grows_with_the_step_and_holds_a_picture(maverick: ModelConfig) -> None:
    sizes = [memory.working_bytes(maverick, step) for step in (1, 512, 2048, 8192)]
    assert sizes == sorted(sizes)
    assert sizes[0] > 17 * 16 * 577**2 * 4  # one picture's attention scores
    assert 2 * GB < sizes[2] < 5 * GB
    text_only = ModelConfig.from_dict({**MAVERICK["text_config"], "model_type": "llama4_text"})  # type: ignore[dict-item]
    step = memory.working_bytes(text_only, 2048)
    assert memory.working_bytes(text_only, 1) < 10**7 < step
    assert memory.working_bytes(text_only, 2048, GIB) == step + 2 * GIB  # of two layers


# The table of sizes in decimal GB that the published shapes give.
@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("e2g128r4", 118.45), ("e2r4", 130.53), ("e2r6", 134.07), ("e3g128r6", 170.31),
        ("e3r6", 182.39), ("e4r4", 227.17), ("e4r6", 230.70), ("e4r8", 234.24),
        ("e5r8", 282.56), ("e6r8", 330.88), ("e8r8", 427.52),
    ],
)  # fmt: skip
def test_recipe_sizes(maverick: ModelConfig, name: str, gb: float) -> None:
    assert recipe_bytes(maverick, Recipe.named(name)) / GB == pytest.approx(gb, abs=0.006)


def test_recipe_sizes_count_every_parameter(maverick: ModelConfig) -> None:
    # e4r4 - e2r4 is two bits of every routed weight, e4r6 - e4r4 two of every other quantised
    # one; what is left is bf16: together they must be the checkpoint's number.
    shapes = json.loads((REFERENCE / "maverick-tensors.json").read_text())
    e4r4 = recipe_bytes(maverick, E4R4)
    routed = (e4r4 - recipe_bytes(maverick, E2R4)) * 4
    rest = (recipe_bytes(maverick, E4R6) - e4r4) * 4
    kept = (e4r4 - int((routed + rest) * 4.5 / 8)) // 2
    assert routed + rest + kept == sum(math.prod(shape) for shape in shapes.values())


def test_longest_context(e4r6: Budget) -> None:
    fixed = e4r6.weights + e4r6.working
    assert longest_context(e4r6, fixed - 1) == 0
    assert longest_context(e4r6, fixed) == 0
    assert longest_context(e4r6, e4r6.total) == 32768
    assert longest_context(e4r6, e4r6.total - 1) == 32768 - 256
    assert longest_context(e4r6, 10**15) == 1048576


def test_a_budget_within_the_limit_is_silent(e4r6: Budget) -> None:
    check(e4r6, e4r6.total, "model", memory=0)
    check(e4r6, int(222.6 * GIB), "model", memory=256 * GIB)  # a stock 256 GB Mac


def refusal(budget: Budget, limit: int, memory_size: int) -> str:
    with pytest.raises(DoesNotFit) as error:
        check(budget, limit, "maverick-e4r6", memory=memory_size)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusal_has_the_numbers_and_the_context_that_fits(maverick: ModelConfig) -> None:
    budget = Budget.of(maverick, 230_700_000_000, 1048576)
    text = refusal(budget, 240 * GB, 0)
    assert f"maverick-e4r6 needs {budget.total / GB:.1f} GB (weights 230.7 GB" in text
    assert "KV cache at 1,048,576 tokens 52.7 GB" in text
    assert "this machine gives 240.0 GB" in text
    assert "sysctl" not in text
    context = int(text.split("--context ")[1])
    check(Budget.of(maverick, budget.weights, context), 240 * GB, "model")
    with pytest.raises(DoesNotFit):
        check(Budget.of(maverick, budget.weights, context + 256), 240 * GB, "model", 0)


def test_refusal_names_the_bits_of_the_kv_cache_that_fit(maverick: ModelConfig) -> None:
    """Before a smaller recipe: the most bits that do."""
    budget = Budget.of(maverick, 230_700_000_000, 1048576)
    eight, four = (budget.changed(options=KVOptions(bits)) for bits in (8, 4))
    assert four.total < eight.total < budget.total
    for limit, said in [(eight.total, "8"), (eight.total - 1, "4"), (four.total, "4")]:
        assert f", or use --kv-bits {said}" in refusal(budget, limit, 0)
    assert "--kv-bits" not in refusal(budget, four.total - 1, 0)
    assert "use --kv-bits 4" in refusal(eight, four.total, 0)
    assert "--kv-bits" not in refusal(four, four.total - 1, 0)


def test_what_a_kv_cache_needs_beside_itself(maverick: ModelConfig) -> None:
    """A prefill step dequantises a head of a long cache at once, which is 512 MiB of a million
    tokens; a bounded cache has less. One layer at a time is copied when it grows."""
    text = replace(maverick, vision=None)  # pictures need more than a step does
    step = memory.working_bytes(text)
    plain, bits, bounded, short = (
        Budget.of(text, 0, context, options=options)
        for context, options in (
            (1048576, KVOptions()),
            (1048576, KVOptions(4)),
            (1048576, KVOptions(4, max_size=16384)),
            (32768, KVOptions()),
        )
    )
    assert bits.working == step + 2 * 512 * 2**20
    assert bounded.working == step + 2 * 64 * 2**20
    assert short.working == step
    assert plain.working == 2**20 * 4096 > step  # the copy when a layer grows, step or not
    assert bounded.kv < plain.kv / 60
    with pytest.raises(UsageError, match="heads of 88"):
        odd = replace(maverick, text=replace(maverick.text, head_dim=88))
        Budget.of(odd, 0, 32768, options=KVOptions(4))


def test_models_that_cannot_be_quantised_are_not_told_to(maverick: ModelConfig) -> None:
    odd = replace(maverick, text=replace(maverick.text, head_dim=88))
    text = refusal(Budget.of(odd, 200 * GB, 1048576), 220 * GB, 0)
    assert "--kv-bits" not in text
    assert "--context" in text


def test_refusal_names_the_limit_to_raise(e4r6: Budget) -> None:
    text = refusal(e4r6, 192 * GIB, 256 * GIB)  # 75 % of 256 GB, as older macOS has it
    wanted = int(text.split("iogpu.wired_limit_mb=")[1].rstrip("'"))
    assert e4r6.total <= wanted * 2**20 <= 256 * GIB - memory.SYSTEM_RESERVE
    assert "recipe" not in text


def test_refusal_never_asks_for_more_than_leaves_the_system_its_share(e4r6: Budget) -> None:
    # Fits to the byte: rounding up to a whole GiB would eat into the reserve.
    size = e4r6.total + memory.SYSTEM_RESERVE
    text = refusal(e4r6, 192 * GIB, size)
    wanted = int(text.split("iogpu.wired_limit_mb=")[1].rstrip("'"))
    assert e4r6.total <= wanted * 2**20 < size - memory.SYSTEM_RESERVE + 2**20
    assert "convert it" in refusal(e4r6, 192 * GIB, size - 2**20)


def test_refusal_offers_both_where_both_help(maverick: ModelConfig) -> None:
    text = refusal(Budget.of(maverick, 200 * GB, 262144), 208 * GB, 256 * GIB)
    assert "use --context" in text
    assert ", or raise the GPU's limit" in text


def test_refusal_names_the_largest_recipe_on_offer_that_fits(
    e4r6: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recipes, "OFFERED", (E4R4, E2R4, E4R6, Recipe.named("e2r6"), Recipe.named("e8r8"))
    )
    stock = refusal(e4r6, 144 * GIB, 192 * GIB)  # a stock 192 GB Mac
    assert "convert it with the smaller recipe e2r6 (134.1 GB)" in stock
    assert "sysctl" not in stock
    # None within the stock limit, one above it.
    raised = refusal(e4r6, 96 * GIB, 160 * GIB)
    assert "recipe e2r6 (134.1 GB) and raise the GPU's limit" in raised
    assert "no recipe" in refusal(e4r6, 48 * GIB, 64 * GIB)


def test_refusal_of_the_published_model_names_a_recipe(maverick: ModelConfig) -> None:
    text = refusal(Budget.of(maverick, 803_167_000_000, 32768), 464 * GIB, 512 * GIB)
    assert "recipe e8r8 (427.5 GB)" in text


def test_refusal_asks_macos_for_its_memory(e4r6: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = memory.Reading(256 * GIB, 0, 256 * GIB, 0, memory.Pressure.NORMAL)
    monkeypatch.setattr(memory.pressure, "read", lambda: reading)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DoesNotFit, match="sysctl"):
        check(e4r6, 192 * GIB, "model")
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(DoesNotFit) as error:
        check(e4r6, 192 * GIB, "model")
    assert "sysctl" not in str(error.value)


@pytest.mark.parametrize(
    ("info", "limit"),
    [
        ({"max_recommended_working_set_size": 96 * GIB, "memory_size": 128 * GIB}, 96 * GIB),
        ({"total_memory": 140 * GIB}, 132 * GIB),
        ({"device_name": "cpu", "architecture": "x86_64"}, 28 * GIB),  # the readings' 32 GiB
    ],
)
def test_machine_limit(info: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = memory.Reading(32 * GIB, 0, 32 * GIB, 0, memory.Pressure.NORMAL)
    monkeypatch.setattr(memory.pressure, "read", lambda: reading)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert memory.machine_limit() == limit


def test_machine_limit_of_this_machine() -> None:
    assert 0 < memory.machine_limit() < memory.read().total * 2


class Limits:
    """Stands in for mlx's setters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, metal: bool):
        self.calls: list[tuple[str, int]] = []
        for name in ("set_memory_limit", "set_cache_limit", "set_wired_limit"):
            monkeypatch.setattr(mx, name, lambda n, name=name: self.calls.append((name, n)))
        info = {"max_recommended_working_set_size": 96 * GIB} if metal else {}
        monkeypatch.setattr(mx, "device_info", lambda: info)
        monkeypatch.setattr(memory, "_wired", False)


def test_limits_on_metal_wire_once_and_never_above_the_recommended_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(monkeypatch, metal=True)
    memory.set_limits(120 * GIB)
    assert limits.calls == [
        ("set_memory_limit", 120 * GIB),
        ("set_cache_limit", 4 * GB),
        ("set_wired_limit", 96 * GIB),
    ]
    memory.set_limits(64 * GIB)
    assert limits.calls[3:] == [("set_memory_limit", 64 * GIB), ("set_cache_limit", 4 * GB)]


def test_limits_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(monkeypatch, metal=False)
    memory.set_limits(16 * GB)
    assert limits.calls == [("set_memory_limit", 16 * GB), ("set_cache_limit", 2 * GB)]


def test_limits_are_accepted_by_mlx() -> None:
    before = mx.set_memory_limit(10**9), mx.set_cache_limit(10**9)
    try:
        if not mx.metal.is_available():  # wiring cannot be taken back
            memory.set_limits(2 * GB)
            assert mx.set_memory_limit(10**9) == 2 * GB  # what it was
    finally:
        mx.set_memory_limit(before[0])
        mx.set_cache_limit(before[1])


def test_arithmetic_and_readings_do_not_load_mlx() -> None:
    code = (
        "import sys; from mlx_maverick import memory; memory.read();"
        "sys.exit(any(m.split('.')[0] == 'mlx' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
