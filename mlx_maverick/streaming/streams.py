"""All streamed experts of a model: memory, files, threads, counts, and what has been done.

Knows nothing of how any of it computes.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ..errors import BadCheckpoint
from ..model.experts import MoE, Pause
from . import counts
from .bank import Bank
from .experts import StreamedExperts
from .ledger import Ledger
from .options import ExpertOptions
from .plan import Plan
from .reader import Reader
from .route_log import RouteLog
from .stats import ExpertStats
from .uncached import Uncached

if TYPE_CHECKING:
    from ..model.text import Layer, TextModel

SPARE = 2  # slots of a bank to read ahead into, where that is asked for
# Steps after which what was chosen without anybody waiting is looked at; it is computed by then.
LATE = 4


class Streams:
    """For the engine's thread."""

    def __init__(self, plan: Plan, dtype: mx.Dtype, options: ExpertOptions, saved: Path):
        """`dtype`: what is computed in. `saved`: a file of how often each expert was used.

        Raises UsageError for a route log that cannot be written.
        """
        self.plan, self.dtype, self.options = plan, dtype, options
        self.ledger = Ledger(RouteLog(options.route_log) if options.route_log else None)
        self.banks: list[Bank] = []
        self._saved = saved
        # In the order of the model.
        self.layers = {p.layer: StreamedExperts(self.ledger, p.layer) for p in plan.layers}

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(bank.nbytes for bank in self.banks)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(places.parameters for places in self.plan.layers)

    @property
    def stats(self) -> ExpertStats:
        """All that was done so far."""
        self._catch_up(0)
        return ExpertStats(
            slots=self.plan.slots,
            experts=self.plan.keys,
            slab_bytes=self.nbytes,
            bytes_read=self._reader.nbytes,
            read_seconds=self._reader.seconds,
            **vars(self.ledger.tally),
        )

    def start(self, text: "TextModel", pause: Pause) -> None:
        """Open the files, take the memory, and begin to read what was used most before. `pause`
        is called now and then, as memory may take a while, and may raise.

        Raises BadCheckpoint for a file that cannot be opened.
        """
        files: dict[Path, Uncached] = {}
        self._reader = Reader(files=files.values())
        for path in {part.tensor.file for places in self.plan.layers for part in places.parts}:
            try:
                files[path] = Uncached.open(path, self.options.file_cache)
            except OSError as e:
                raise BadCheckpoint(f"{path} cannot be opened ({e.strerror})") from None
        spare = SPARE if self.options.look_ahead else 0
        for bank in self.plan.banks:
            made = Bank(bank.layers, bank.slots, self.dtype, files, self._reader, spare, pause)
            self.banks.append(made)
            for i, places in enumerate(bank.layers):
                self.layers[places.layer].place(made, i * made.experts)
        text.begun = self.begin
        if self.options.look_ahead or self.ledger.log is not None:
            self._link(text)
        used = counts.load(self._saved, len(self.layers), self.banks[0].experts)
        for layer, rows in zip(self.layers.values(), used, strict=True):
            layer.uses[:] = rows
        for made in self.banks:
            made.warm()

    def begin(self, positions: Sequence[int]) -> None:
        """Steps that begin at these positions will go through the layers."""
        self.ledger.step += 1
        self.ledger.position = positions[0]
        self._catch_up(LATE)

    def save(self) -> None:
        """Keep how often each expert was used."""
        self._catch_up(0)
        counts.save(self._saved, np.stack([layer.uses for layer in self.layers.values()]))
        if self.ledger.log is not None:
            self.ledger.log.flush()

    def _catch_up(self, steps: int) -> None:
        """Look at what was chosen, without anybody waiting, at least so many steps ago."""
        late = self.ledger.late
        while late and late[0].step <= self.ledger.step - steps:
            self.layers[late[0].layer].note_late(late.popleft())

    def _link(self, text: "TextModel") -> None:
        """Let each layer ask what the next one with experts would choose."""
        for layer, following in pairwise(self.layers.values()):
            layer.expects = _expects(text.layers[following.layer])
            layer.following = following


def _expects(layer: "Layer") -> Callable[[mx.array], mx.array]:
    moe, norm = layer.feed_forward, layer.post_attention_layernorm
    assert isinstance(moe, MoE)
    return lambda rows: moe.expected(norm(rows))
