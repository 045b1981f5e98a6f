"""The memory budget: what a model needs at a context length, and what the machine gives.

Knows shapes and sizes, not weights, and imports mlx only to ask for the machine's limit or
to set it. Live readings are in `pressure` and can be had from here.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import pressure
from .config import ModelConfig, VisionConfig
from .errors import DoesNotFit, UsageError
from .kv import (
    DENSE,
    KV_BITS,
    KV_STEP,
    KVOptions,
    copied_bytes,
    dequantised_bytes,
    kv_bytes,
)
from .pressure import Pressure, Reading, read
from .units import gb

if TYPE_CHECKING:  # at run time inside functions: the converter's plan reads budgets from here
    from .convert.recipe import Recipe

__all__ = [
    "DEFAULT_CONTEXT", "KV_STEP", "PREFILL_STEP", "Budget", "KVOptions", "Pressure", "Reading",
    "advice", "check", "kv_bytes", "longest_context", "machine_limit", "raise_limit", "read",
    "recipe_bytes", "set_limits", "smaller_recipe", "usable", "working_bytes",
]  # fmt: skip

PREFILL_STEP = 2048  # tokens of one prefill step, unless asked otherwise; as in mlx-lm
# Where experts are streamed, tokens that go through each layer together, so that each expert is
# read once for all of them. The usual context: most prompts are read in one pass over the file.
PASS_TOKENS = 32768
# What each of those holds meanwhile, in hidden states: before the layer and before its experts,
# with norm, what goes through experts and comes back, by expert, in one and in order, and the
# shared expert's.
PASS_STATES = 8

# What is left to the system when the rest is ours. A judgement: macOS with a few programs; a
# machine left with nothing stalls instead of failing.
SYSTEM_RESERVE = 8 * 2**30
# Freed buffers that MLX keeps for reuse. Its own default is "all of memory", which after a
# long prefill is memory that neither the system nor the KV cache can have.
CACHE_LIMIT = 4 * 10**9
DEFAULT_CONTEXT = 32768  # tokens of a conversation, unless asked otherwise
MIN_CONTEXT = 1024  # a shorter one is not worth suggesting

# Temporaries alive at once, in layers: a layer's buffers are freed as the next one computes.
LIVE_LAYERS = 2
MAX_TILES = 17  # of one picture: 16 and the whole
# What working room counts an activation as. bf16 on Metal with some float32 in between
# (rotary angles, softmax, router); float32 throughout on a CPU.
ACTIVATION_BYTES = 4


def working_bytes(
    config: ModelConfig,
    prefill_step: int = PREFILL_STEP,
    dequantised: int = 0,
    copied: int = 0,
    together: int = 0,
    element_bytes: int = ACTIVATION_BYTES,
) -> int:
    """Room for the activations of a prefill step of that many tokens, or of one picture.

    `dequantised`: what a layer with a quantised KV cache has of it as values at once.
    `copied`: what a layer of the cache takes, which is there twice when it grows.
    `together`: tokens that go through each layer together, where experts are streamed, in
    hidden states of `element_bytes` a value.

    An upper estimate, not a measurement. Text: for each token, per live layer, four hidden
    states, q, k and v before and after rotary, and gate, up and their product of the wider
    MLP; then logits of the last position in float32. Pictures: the same of the vision tower for
    17 tiles, and attention scores, as its head size (88) has no fused kernel. The two do not
    run at the same time, so the larger counts. The text's attention is fused and keeps no
    scores.
    """
    text = config.text
    projected = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    dense = 0 if all(text.moe_layers) else 3 * text.intermediate_size_mlp
    moe = 2 * 3 * text.intermediate_size if any(text.moe_layers) else 0  # routed and shared
    token = 4 * text.hidden_size + 3 * projected + max(dense, moe)
    prefill = prefill_step * token * LIVE_LAYERS * ACTIVATION_BYTES + text.vocab_size * 4
    prefill += dequantised * LIVE_LAYERS
    prefill += together * text.hidden_size * PASS_STATES * element_bytes
    return max(prefill, copied, _picture_bytes(config.vision) if config.vision else 0)


def _picture_bytes(vision: VisionConfig) -> int:
    patches = vision.patches_per_side**2 + 1
    patch = 4 * vision.hidden_size + 3 * 3 * vision.hidden_size + 2 * vision.intermediate_size
    activations = patches * patch * LIVE_LAYERS
    scores = vision.num_attention_heads * patches**2
    pixels = 2 * vision.num_channels * vision.image_size**2  # as a tile, and unfolded
    return MAX_TILES * (activations + scores + pixels) * ACTIVATION_BYTES


@dataclass(frozen=True)
class Budget:
    """What running a model takes, in bytes."""

    config: ModelConfig
    context: int  # tokens
    weights: int
    kv: int
    working: int
    element_bytes: int = 2  # of a value that is not quantised: 2 for bf16
    options: KVOptions = DENSE
    prefill_step: int = PREFILL_STEP
    # Of the weights, the slots of streamed experts; None: all experts are in memory.
    slab: int | None = None

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.working

    @staticmethod
    def of(
        config: ModelConfig,
        weights: int,
        context: int,
        prefill_step: int = PREFILL_STEP,
        element_bytes: int = 2,
        options: KVOptions = DENSE,
        slab: int | None = None,
    ) -> "Budget":
        """The budget of `weights` bytes at `context` tokens; of which `slab` bytes are slots of
        streamed experts. Raises UsageError for options that the model does not allow."""
        options.check(config.text)
        shape = (config.text, context, element_bytes, options)
        kv = kv_bytes(*shape)
        dequantised, copied = dequantised_bytes(*shape), copied_bytes(*shape)
        together = 0 if slab is None else min(context, PASS_TOKENS)
        working = working_bytes(config, prefill_step, dequantised, copied, together, element_bytes)
        return Budget(
            config, context, weights, kv, working, element_bytes, options, prefill_step, slab
        )

    def changed(self, context: int | None = None, options: KVOptions | None = None) -> "Budget":
        """The same with another context, or another KV cache."""
        return Budget.of(
            self.config,
            self.weights,
            self.context if context is None else context,
            self.prefill_step,
            self.element_bytes,
            options or self.options,
            self.slab,
        )

    def streamed(self, rest: int, slab: int) -> "Budget":
        """The same with `slab` bytes of slots for routed experts, and `rest` of other weights."""
        shape = (self.context, self.prefill_step, self.element_bytes, self.options)
        return Budget.of(self.config, rest + slab, *shape, slab)


def longest_context(budget: Budget, limit: int) -> int:
    """The most tokens, up to the model's own maximum, with which `budget` is within `limit`
    bytes; 0 if there is no room for any."""
    low, high = 0, budget.config.text.max_position_embeddings // KV_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if budget.changed(context=middle * KV_STEP).total <= limit:
            low = middle
        else:
            high = middle - 1
    return low * KV_STEP


def fewer_bits(budget: Budget, limit: int) -> KVOptions | None:
    """The KV cache of most bits, fewer than the budget's, with which it is within `limit`
    bytes."""
    for bits in KV_BITS:
        if bits < (budget.options.bits or 16):
            options = replace(budget.options, bits=bits)
            try:
                if budget.changed(options=options).total <= limit:
                    return options
            except UsageError:  # the model's heads do not divide into groups
                return None
    return None


def recipe_bytes(config: ModelConfig, recipe: "Recipe") -> int:
    """Bytes of the whole model's tensors, converted with `recipe`."""
    from .convert.outputs import outputs

    return sum(entry.nbytes for entry in outputs(config, recipe))


def smaller_recipe(budget: Budget, limit: int) -> "tuple[Recipe, int] | None":
    """The largest recipe on offer, and its bytes, that is smaller than the budget's weights and
    with which the rest of the budget is within `limit` bytes."""
    from .convert import recipe as recipes

    room = min(limit - budget.kv - budget.working, budget.weights - 1)
    sizes = [(recipe_bytes(budget.config, recipe), recipe) for recipe in recipes.OFFERED]
    fitting = [(size, recipe) for size, recipe in sizes if size <= room]
    if not fitting:
        return None
    size, recipe = max(fitting, key=lambda pair: pair[0])
    return recipe, size


def machine_limit() -> int:
    """Bytes that a model may take on this machine.

    On Metal what the GPU may keep resident, which `sudo sysctl iogpu.wired_limit_mb` raises
    (MLX reads it once per process); elsewhere memory less a reserve for the system.
    """
    import mlx.core as mx

    info = mx.device_info()  # the CPU backend has neither key
    size = info.get("max_recommended_working_set_size")
    if size:
        return int(size)
    return usable(int(info.get("total_memory") or pressure.read().total))


def usable(total: int) -> int:
    """What a machine with `total` bytes can give when its system is left enough."""
    return total - min(SYSTEM_RESERVE, total // 8)


def check(
    budget: Budget,
    limit: int,
    model_name: str,
    memory: int | None = None,
    held: int = 0,
    also: str | None = None,
) -> None:
    """Raises DoesNotFit, with numbers and advice, if `budget` is above `limit` bytes, of which
    this process holds some already.

    `memory` as for `advice`; `also` is another way out.
    """
    if budget.total > limit:
        raise DoesNotFit(
            f"{model_name} needs {gb(budget.total)} (weights {gb(budget.weights)}, KV cache at "
            f"{budget.context:,} tokens {gb(budget.kv)}, working room {gb(budget.working)}) and "
            f"this machine gives {gb(limit)}; {f'{also}, or ' if also else ''}"
            f"{advice(budget, limit, memory)}"
        )
    if budget.total + held > limit:
        raise DoesNotFit(
            f"{model_name} needs {gb(budget.total)}; of the {gb(limit)} that this machine gives, "
            f"{gb(held)} are held by what this program has loaded; let go of that first"
        )


def check_reply(budget: Budget, limit: int, tokens: int, cached: int, held: int) -> None:
    """Raises DoesNotFit if a conversation of `tokens` has no room beside the rest of what this
    process holds: `held` bytes in all, of which `cached` are its own KV cache."""
    own = budget.changed(context=tokens)
    more = max(0, own.kv - cached) + own.working
    if held + more > limit:
        raise DoesNotFit(
            f"a conversation of {tokens:,} tokens needs {gb(more)} more, and of the {gb(limit)} "
            f"that this machine gives, {gb(held)} are held by the model and other conversations; "
            "let go of some of those, or ask for fewer tokens"
        )


def advice(budget: Budget, limit: int, memory: int | None = None) -> str:
    """What to do about a budget above `limit` bytes: a shorter context, a quantised KV cache, a
    raised limit, or the recipe that would fit.

    `memory` is that of a machine whose limit can be raised with sysctl; left out, it is asked
    of macOS, and 0 on other systems.
    """
    if memory is None:
        memory = pressure.read().total if sys.platform == "darwin" else 0
    raisable = max(limit, usable(memory))
    ways = []
    context = longest_context(budget, limit)
    if context >= MIN_CONTEXT:
        ways.append(f"use --context {context}")
    if options := fewer_bits(budget, limit):
        ways.append(f"use --kv-bits {options.bits}")
    if budget.total <= raisable:
        ways.append(_raise(budget.total, raisable))
    if ways:
        return ", or ".join(ways)
    for ceiling in dict.fromkeys((limit, raisable)):
        if found := smaller_recipe(budget, ceiling):
            recipe, size = found
            convert = f"convert it with the smaller recipe {recipe.name} ({gb(size)})"
            if ceiling == limit:
                return convert
            return f"{convert} and {_raise(size + budget.kv + budget.working, raisable)}"
    return "no recipe on offer is small enough; use a machine with more memory"


def _raise(need: int, most: int) -> str:
    return f"raise the GPU's limit until the next restart with '{raise_limit(need, most)}'"


def raise_limit(need: int, most: int) -> str:
    """The command that lets the GPU keep `need` bytes resident, on a Mac that can give `most`.

    To a whole GiB above the need, so that a little longer context does not ask again.
    """
    mib = 2**20
    limit = min(math.ceil(need / 2**30) * 1024, most // mib)
    return f"sudo sysctl iogpu.wired_limit_mb={max(limit, math.ceil(need / mib))}"


_wired = False


def set_limits(limit: int) -> None:
    """Hold MLX to `limit` bytes, and on Metal keep that much wired; once per process.

    Without wiring, a model close to the limit is paged out between tokens and runs 10 to 40
    times slower. The wired limit is set once and stays: toggling it while another stream
    computes is behind a kernel panic (https://github.com/ml-explore/mlx/issues/3186), and
    above the recommended size it raises. Other limits follow a second call.
    """
    global _wired
    import mlx.core as mx

    mx.set_memory_limit(limit)
    mx.set_cache_limit(min(CACHE_LIMIT, limit // 8))
    recommended = mx.device_info().get("max_recommended_working_set_size")  # Metal only
    if recommended and not _wired:
        mx.set_wired_limit(min(limit, int(recommended)))
        _wired = True
