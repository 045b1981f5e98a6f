"""What a KV cache keeps, and how many bytes that takes.

Knows shapes and options, and nothing of mlx: `plan` predicts with it to the byte what the cache
allocates by the same rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .config import TextConfig
from .errors import UsageError

KV_STEP = 256  # tokens; capacities are multiples of it
KV_BITS = (8, 4)
GROUP_SIZES = (64, 32)  # of quantised caches, along the head; the first that divides it
MIN_SIZE = 16  # tokens of a rotating cache
FIRST_TOKENS = 4  # at least so many are always kept: attention leans on them (as in mlx-lm)
MAX_BLOCK = 2048  # tokens that a rotating cache forgets at once, at most
# A prefill step over a quantised cache dequantises this many bytes of it at once; if one head
# has more, one head.
DEQUANTISED_BYTES = 256 * 2**20


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class KVOptions:
    """How a cache keeps keys and values. The default keeps all of them as they are.

    `bits`: quantise to that many, from position `start` on. `max_size`: tokens that a layer
    which attends to everything holds at most; chunked layers hold their chunk anyway.
    Raises UsageError for values that make no sense.
    """

    bits: int | None = None
    start: int = 0
    max_size: int | None = None

    def __post_init__(self) -> None:
        if self.bits is not None and not (_whole(self.bits) and self.bits in KV_BITS):
            raise UsageError(f"a KV cache of {self.bits!r} bits is not possible; use 8 or 4")
        if not _whole(self.start) or self.start < 0:
            raise UsageError(
                f"a KV cache cannot be quantised from token {self.start!r} on; use 0 or more"
            )
        if self.start and self.bits is None:
            raise UsageError(
                f"the KV cache has no bits to quantise to from token {self.start} on; "
                "say 8 or 4 bits, or leave the start out"
            )
        if self.max_size is not None and (not _whole(self.max_size) or self.max_size < MIN_SIZE):
            raise UsageError(
                f"a KV cache of at most {self.max_size!r} tokens is not possible; "
                f"use {MIN_SIZE} or more"
            )

    def check(self, text: TextConfig) -> None:
        """Raises UsageError if a model's keys cannot be quantised."""
        if self.bits is not None:
            group_size(text.head_dim)

    @property
    def rotation(self) -> "Rotation | None":
        return Rotation.of(self.max_size) if self.max_size else None

    def packed(self, length: int) -> bool:
        """Whether what is held after `length` tokens is quantised: the first step that begins
        at `start` or later quantises everything before it as well."""
        return self.bits is not None and (self.start == 0 or length > self.start)


DENSE = KVOptions()


def group_size(head_dim: int) -> int:
    """Values of a head that share a scale. Raises UsageError if none divides it."""
    for size in GROUP_SIZES:
        if head_dim % size == 0:
            return size
    raise UsageError(
        f"this model's KV cache cannot be quantised: its heads of {head_dim} values do not "
        f"divide into groups of {GROUP_SIZES[-1]}; leave --kv-bits out"
    )


@dataclass(frozen=True)
class Rotation:
    """How a layer that attends to everything gets by with `size` slots.

    Slots: the first `keep` tokens for good, `old` blocks of `block` tokens, and a tail block.
    Positions below `size` are written in order. At every later position at which the tail is
    full, it is put in place of the oldest of the old blocks, and begins anew. So a token sees
    the first `keep`, and between `old` and `old + 1` blocks of the latest: always the slots up
    to the tail's end. Keys carry their positions, so that their order does not matter.
    """

    size: int
    keep: int
    block: int
    old: int

    @staticmethod
    def of(size: int) -> "Rotation":
        rest = size - FIRST_TOKENS
        block = min(MAX_BLOCK, max(1, rest // 8))
        blocks = rest // block
        return Rotation(size, size - blocks * block, block, blocks - 1)

    @property
    def tail(self) -> int:
        """The tail's first slot."""
        return self.size - self.block

    def turns(self, position: int) -> int:
        """How often the tail has been put away once a step at `position` has begun."""
        return 0 if position < self.size else (position - self.size) // self.block + 1

    def start(self, turns: int) -> int:
        """The position in the tail's first slot after `turns`."""
        return self.tail + turns * self.block

    def slot(self, position: int) -> int:
        """Where a step at `position` writes it."""
        return position - (self.turns(position) * self.block)

    def left(self, position: int) -> int:
        """How many tokens from `position` on fit before the tail is put away."""
        return self.size - self.slot(position)

    def oldest(self, turn: int) -> int:
        """The first slot of the block that the `turn`-th turn replaces (the first is 1)."""
        return self.keep + (turn - 1) % self.old * self.block


def capacity(length: int, most: int | None = None) -> int:
    """Tokens that a layer has room for when it must hold `length`.

    In steps of a quarter of the largest power of two within `length`, and at least 256: copies
    are amortised, and less than a quarter is spare from 1,024 tokens on. Never more than `most`
    (the longest context, if that is known) needs.
    """
    if length <= 0:
        return 0
    room = _rounded(length, max(KV_STEP, 1 << length.bit_length() - 1 >> 2))
    return room if most is None else min(room, _rounded(max(most, length), KV_STEP))


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


def limits(text: TextConfig, options: KVOptions) -> list[int | None]:
    """The most tokens each layer ever holds; None for as many as come."""
    size = options.max_size
    return [text.attention_chunk_size if chunked else size for chunked in text.chunked_layers]


def row_bytes(text: TextConfig, element_bytes: int, bits: int | None) -> int:
    """Bytes of one token's keys and values in one layer.

    Quantised, every group also has a scale and a bias, of `element_bytes` each.
    """
    elements = 2 * text.num_key_value_heads * text.head_dim
    if bits is None:
        return elements * element_bytes
    return elements * bits // 8 + elements // group_size(text.head_dim) * 2 * element_bytes


def allocated_bytes(
    text: TextConfig,
    length: int,
    element_bytes: int = 2,
    options: KVOptions = DENSE,
    most: int | None = None,
    reserved: int = 0,
) -> int:
    """Bytes that a cache has allocated once `length` tokens (never more) were in it, of which
    `reserved` were announced."""
    packed = options.packed(length)
    if options.bits is not None and not packed:  # no longer ones will be dense
        most, reserved = min(most or options.start, options.start), min(reserved, options.start)
    room = capacity(max(length, reserved), most)
    row = row_bytes(text, element_bytes, options.bits if packed else None)
    return row * sum(_held(room, text, options))


def kv_bytes(
    text: TextConfig, context: int, element_bytes: int = 2, options: KVOptions = DENSE
) -> int:
    """Bytes of the KV cache of a conversation of up to `context` tokens, at its largest.

    A chunked layer never holds more than its chunk. `element_bytes` is 2 for bf16. Where it is
    quantised later on, it may be at its largest just then: still dense, and one layer of it
    quantised already.
    """
    full = allocated_bytes(text, context, element_bytes, options, context)
    if options.bits is None or not 0 < options.start < context:
        return full
    before = allocated_bytes(text, options.start, element_bytes, options, context)
    one = max(_held(capacity(context, context), text, options), default=0)
    return max(full, before + one * row_bytes(text, element_bytes, options.bits))


def dequantised_bytes(
    text: TextConfig, context: int, element_bytes: int = 2, options: KVOptions = DENSE
) -> int:
    """Bytes that a prefill step at `context` tokens dequantises at once, in its largest layer."""
    if options.bits is None or context <= options.start:
        return 0
    tokens = max(_held(context, text, options), default=0)
    head = 2 * tokens * text.head_dim * element_bytes
    return head * heads_at_once(text.num_key_value_heads, head)


def copied_bytes(
    text: TextConfig, context: int, element_bytes: int = 2, options: KVOptions = DENSE
) -> int:
    """Bytes of the largest layer: what may be there twice, while it grows or rotates or is
    quantised. One layer at a time is."""
    bits = options.bits if options.packed(context) and not options.start else None
    tokens = max(_held(capacity(context, context), text, options), default=0)
    return tokens * row_bytes(text, element_bytes, bits)


def heads_at_once(heads: int, head_bytes: int) -> int:
    """Of `heads`, how many to dequantise at once if each then takes `head_bytes`."""
    return min(heads, max(1, DEQUANTISED_BYTES // max(1, head_bytes)))


def _held(tokens: int, text: TextConfig, options: KVOptions) -> Iterable[int]:
    """`tokens`, as far as each layer holds them."""
    return [tokens if most is None else min(tokens, most) for most in limits(text, options)]
