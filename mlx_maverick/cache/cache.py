"""The KV cache of one conversation: what every layer keeps of the tokens so far.

Knows nothing of tokens or of the network; it counts positions. Two kinds of layers share one
buffer type. A *global* layer writes position p at p. A *chunked* layer writes it at
p - start of its chunk, into a buffer that holds one chunk and starts afresh at the next:
no window is copied, nothing is trimmed, and inside its chunk the layer is plainly causal.
That is why no step may cross a chunk boundary; `spans` cuts the work so that none does.

With `max_size` a global layer gets by with so many slots (see `kv.Rotation`), and stays plainly
causal over them. With `bits` everything is quantised from position `start` on. Both happen at
fixed positions, at which `spans` cuts as well: what is held follows from positions alone, never
from how the work was cut into steps.
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from ..config import TextConfig
from ..kv import DENSE, KVOptions, capacity, group_size, limits
from .buffers import Buffer, Held, PackedBuffer


class Cache:
    """All layers' buffers, and where the conversation stands.

    `length` tokens are in; the chunked layers hold `[chunk_start, length)` of them.
    """

    def __init__(self, config: TextConfig, options: KVOptions = DENSE, most: int | None = None):
        """`most`: the longest context, if known; no more is allocated than it needs.

        Raises UsageError for options that the model does not allow.
        """
        options.check(config)
        self.config, self.options, self.most = config, options, most
        self.chunk = config.attention_chunk_size
        self.chunked = config.chunked_layers
        self.rotation = options.rotation
        self.length = 0
        self.chunk_start = 0
        self.turns = 0  # times a full tail block was put away
        self.reserved = 0
        self._limits = limits(config, options)
        # Of the step that has begun, for global layers and for chunked ones: where it is
        # written, and how many tokens there must be room for.
        self._at = (0, 0)
        self._need = (0, 0)
        self._pass: Sequence[int] = ()  # tokens of each step, if several have begun
        self._empty()

    def _empty(self) -> None:
        self.packed = self.options.packed(0)  # whether what is held is quantised
        self.layers = [self._buffer() for _ in self.chunked]

    def _buffer(self) -> Buffer:
        if self.packed and self.options.bits is not None:
            return PackedBuffer(self.options.bits, group_size(self.config.head_dim))
        return Buffer()

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def held(self) -> list[int]:
        """Tokens that each layer holds."""
        everything = self.length
        if self.rotation and self.turns:
            everything += self.rotation.tail - self.rotation.start(self.turns)
        return [self.length - self.chunk_start if c else everything for c in self.chunked]

    def reserve(self, length: int) -> None:
        """Say that `length` tokens will come: from the next step on there is room for them, so
        that buffers grow once instead of often."""
        self.reserved = length

    def spans(self, count: int, step: int | None = None) -> Iterator[tuple[int, int]]:
        """Cut the next `count` tokens into (start, end) pieces of at most `step` that `begin`
        accepts one after the other. Start and end count from the first of them."""
        first, at = self.length, 0
        while at < count:
            size = self._room(first + at)
            end = min(count, at + size, at + step if step else count)
            yield at, end
            at = end

    def _room(self, position: int) -> int:
        """How many tokens a step at `position` may have."""
        room = self.chunk - position % self.chunk
        if self.rotation:
            room = min(room, self.rotation.left(position))
        if position < self.options.start:
            room = min(room, self.options.start - position)
        return room

    def passes(
        self, count: int, step: int, most: int | None = None
    ) -> Iterator[list[tuple[int, int]]]:
        """The same pieces, of at most `step` tokens, in groups that `begin_all` accepts: one
        piece each; or, if layers are to see many at once, as many as follow each other up to
        `most` tokens. A group ends where the whole cache changes."""
        first = self.length
        group: list[tuple[int, int]] = []
        for start, end in self.spans(count, step):
            if group:
                begun = first + group[0][0]
                together = most is not None and end - group[0][0] <= most
                if not together or self._changes(begun, first + start, first + end):
                    yield group
                    group = []
            group.append((start, end))
        if group:
            yield group

    def _changes(self, begun: int, start: int, end: int) -> bool:
        """Whether a step from `start` to `end` rotates or quantises what one at `begun` has
        not."""
        rotation = self.rotation
        turns = rotation is not None and rotation.turns(begun) != rotation.turns(start)
        return turns or self.options.packed(end) != self.options.packed(begun + 1)

    def begin(self, count: int) -> tuple[int, int]:
        """Start a step of `count` tokens: their first position overall, and in the chunk.

        The layers then `update`; `advance` ends the step. Raises ValueError for a step that
        `spans` would cut.
        """
        self.settle()
        position = self.length
        if position - self.chunk_start == self.chunk:
            self.chunk_start = position
        if position % self.chunk + count > self.chunk:
            raise ValueError(
                f"a step of {count} tokens at {position} crosses a chunk boundary "
                f"({self.chunk}); cut it with Cache.spans"
            )
        if count > self._room(position):
            raise ValueError(
                f"a step of {count} tokens at {position} crosses a place where the cache rotates "
                f"or is quantised ({self.options}); cut it with Cache.spans"
            )
        if self.rotation:
            self._turn(self.rotation.turns(position))
        self.place(position, count)
        if self.options.packed(position + count):
            self._pack()
        return position, position % self.chunk

    def begin_all(self, counts: Sequence[int]) -> list[tuple[int, int]]:
        """Start steps of so many tokens, one after the other, that each layer takes all before
        the next layer does: of each its first position overall, and in the chunk. Before a layer
        takes one of them, `place` says which; `advance` ends them all, `abandon` takes them back.
        Whoever comes between them `settle`s first.
        """
        if len(counts) == 1:
            return [self.begin(counts[0])]
        position = self.length
        self.begin(counts[0])
        places = []
        for count in counts:
            places.append((position, position % self.chunk))
            position += count
        self._pass = counts
        return places

    def place(self, position: int, count: int) -> None:
        """What layers `update` from now on are `count` tokens at `position`."""
        need = max(position + count, self.reserved)
        if position < self.options.start:
            need = min(need, self.options.start)
        slot = self.rotation.slot(position) if self.rotation else position
        self._at = (slot, position % self.chunk)
        self._need = (min(need, self.options.max_size or need), min(need, self.chunk))

    def abandon(self, counts: Sequence[int]) -> None:
        """`settle`, if these are the steps that are under way: a reply that comes to its end
        late may find another one's."""
        if counts is self._pass:
            self.settle()

    @property
    def under_way(self) -> bool:
        """Whether `settle` has something to do."""
        return bool(self._pass)

    def settle(self) -> None:
        """Take back the steps that `begin_all` has started, some of which some layers have taken.

        If they lie in one chunk, all that was there still is. Otherwise chunked layers may have
        begun the next one, and the cache goes back to the start of the first.
        """
        counts, self._pass = self._pass, ()
        position, length = self.length, self.length
        for count in counts[:-1]:
            position += count
        later = position - position % self.chunk
        if counts and later > self.chunk_start:
            self.length = self.chunk_start = later
            self.rewind(length)

    def _turn(self, turns: int) -> None:
        """Put the full tail block in place of the oldest one, if that has not been done."""
        if self.turns == turns or self.rotation is None:
            return
        source, target = self.rotation.tail, self.rotation.oldest(turns)
        # All layers at once, should an interrupt come between them.
        self.layers, self.turns = (
            [
                layer if chunked else layer.moved(source, target, self.rotation.block)
                for layer, chunked in zip(self.layers, self.chunked, strict=True)
            ],
            turns,
        )

    def _pack(self) -> None:
        """Quantise what is held, unless it is; one layer after the other, so that at most one
        of them is there twice. After an interrupt the next step goes on with the others."""
        dense = [i for i, layer in enumerate(self.layers) if not isinstance(layer, PackedBuffer)]
        held = self.held if dense else []
        self.packed = True
        for i in dense:
            buffer = self._buffer()
            assert isinstance(buffer, PackedBuffer)
            need = self._need[self.chunked[i]]
            buffer.take(self.layers[i], held[i], self._capacity(i, need))
            self.layers[i] = buffer

    def _capacity(self, layer: int, need: int) -> int:
        """How many tokens a layer is to have room for that must hold `need`."""
        most, limit = self.most, self._limits[layer]
        if self.options.bits is not None and not self.packed:
            most = min(most or self.options.start, self.options.start)
        room = capacity(need, most)
        return room if limit is None else min(room, limit)

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[Held, Held]:
        """Store a step's keys and values [B, H, L, D]; all that the layer may attend to."""
        buffer, chunked = self.layers[layer], self.chunked[layer]
        at = self._at[chunked]
        if buffer.capacity < self._need[chunked]:
            buffer.grow(keys, values, at, self._capacity(layer, self._need[chunked]))
        return buffer.write(keys, values, at)

    def advance(self, count: int) -> None:
        """The steps that were begun are taken: `count` tokens in all."""
        self._pass = ()
        self.length += count
        if self.length - self.chunk_start > self.chunk:  # of several chunks
            self.chunk_start = (self.length - 1) // self.chunk * self.chunk

    def rewind(self, length: int) -> int:
        """Forget everything after the first `length` tokens, as far as that is exact.

        Returns where the cache stands now: the last position up to `length` at which it holds
        all that a fresh one would. That is `length` itself, unless it lies
        - in an earlier chunk than the one that is held, whose keys are gone: the start of its
          chunk;
        - before the tail block of a cache that has begun to rotate, as the block which the tail
          has replaced is gone: `keep`, or `length` if that is less;
        - before `start` in a cache that is quantised by now: 0;
        each of which may lead to another. From there to `length` the tokens have to be
        prefilled again.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} tokens")
        self.settle()
        length = min(length, self.length)  # which may be less by now
        turned = self._turned_at
        while (exact := self._exact(length)) != length:
            length = exact
        if length < self.chunk_start:
            self.chunk_start = length
        if length < turned:
            self.turns = 0
        self.length = length
        if self.packed and length < self.options.start:
            self._empty()
        return length

    @property
    def _turned_at(self) -> int:
        """The position in the tail's first slot, if earlier blocks are gone; else 0."""
        return self.rotation.start(self.turns) if self.rotation and self.turns else 0

    def _exact(self, length: int) -> int:
        """`length`, or the next lower position that may be exact."""
        if self.packed and length < self.options.start:
            return 0
        if self.rotation and length < self._turned_at:
            length = min(length, self.rotation.keep)
        return length - length % self.chunk if length < self.chunk_start else length

    def stand(self, length: int, chunk_start: int, turns: int, packed: bool) -> None:
        """Stand there with empty buffers, which are to be filled by who read them from a file."""
        self.length, self.chunk_start, self.turns = length, chunk_start, turns
        self.packed = packed
        self.layers = [self._buffer() for _ in self.chunked]

    def room(self, layer: int) -> int:
        """How many tokens a layer of a cache of this length has room for."""
        limit = self._limits[layer]
        return self._capacity(layer, min(self.length, limit or self.length))

    def fork(self) -> "Cache":
        """An independent cache with the same in it. Memory is shared until one is written."""
        other = Cache(self.config, self.options, self.most)
        other.length, other.chunk_start, other.turns = self.length, self.chunk_start, self.turns
        other.packed, other.reserved = self.packed, self.reserved
        other.layers = [layer.copy() for layer in self.layers]
        other._pass = self._pass
        other.settle()
        return other
