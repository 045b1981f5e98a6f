"""Other ways to run a model whose experts stay on the disk: mlx-vlm's, and mapped files.

Knows nothing of what is measured.
"""

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import DTYPE_BITS, Checkpoint
from ..config import ModelConfig
from ..streaming.places import LayerPlaces, Part, places
from ..streaming.plan import least_bytes
from ..streaming.stats import ExpertStats
from .bench_subject import Ours, Sampler

if TYPE_CHECKING:
    import mlx.core as mx

    from ..model.linear import Linear


class MlxVlm:
    """mlx-vlm with the folder that its `moe_offload` made. On a CPU what stays in memory is cast
    to float32; experts' scales are cast by MLX at each use, as they come from the file."""

    def __init__(self, folder: str, memory: int):
        """`memory`: bytes that its store may hold."""
        import mlx.core as mx
        from mlx_vlm.utils import load_model

        self.model = load_model(Path(folder), lazy=True, expert_cache_gb=memory / 1e9)
        decoder = self.model.language_model
        if mx.default_device().type == mx.DeviceType.cpu:
            decoder.set_dtype(mx.float32)
        mx.eval(decoder.parameters())
        self._store = self.model.moe_offload_store
        self._whole = 0  # experts read by whole layers, which the store does not count
        get_all = self._store.get_all

        def counted(layer: int, needed: Sequence[int]) -> Any:
            self._whole += len(needed)
            return get_all(layer, needed)

        self._store.get_all = counted

    def make_cache(self) -> Any:
        return self.model.language_model.make_cache()

    def generate(
        self, cache: Any, ids: list[int], filled: int, count: int, sample: Sampler
    ) -> Iterator[object]:
        import mlx.core as mx
        from mlx_vlm.generate import generate_step

        steps: Iterator[object] = generate_step(
            mx.array([ids]), self.model, None, None, prompt_cache=cache, max_tokens=count,
            sampler=sample,
        )  # fmt: skip
        return steps

    def stats(self) -> ExpertStats:
        said = self._store.stats()
        return ExpertStats(hits=said["hits"], misses=said["misses"] + self._whole)


class Mapped(Ours):
    """This package with experts taken from mapped files, by copying them where they are used:
    an imitation of programs that map the whole model, as llama.cpp does.

    Which pages stay is not left to the system: those of the experts used last are kept, as many
    as `memory` has room for, and all others given back. So the comparison is with a system that
    has just this much memory for files, and always forgets the right page.
    """

    def __init__(self, folder: str, context: int, memory: int):
        config = ModelConfig.from_folder(Path(folder))
        layers = places(Checkpoint.open(Path(folder)), config)
        # Two slots, which are never used: so all else is loaded, and experts are not.
        least = least_bytes(layers, 4)
        super().__init__(folder, context, experts="stream", expert_memory=least)
        self._pages = _Pages(memory)
        for layer in layers:
            moe: Any = self.model.text.layers[layer.layer].feed_forward
            moe.experts = _MappedExperts(layer, self._pages, self.model.dtype)

    def stats(self) -> ExpertStats:
        return ExpertStats(hits=self._pages.hits, misses=self._pages.misses)


class _Pages:
    """All files, mapped, and which experts' pages are kept."""

    def __init__(self, memory: int):
        self.memory, self.held = memory, 0
        self.hits = self.misses = 0
        self._files: dict[Path, mmap.mmap] = {}
        self._kept: OrderedDict[tuple[int, int], LayerPlaces] = OrderedDict()

    def use(self, layer: LayerPlaces, expert: int) -> None:
        """An expert is needed now; those that were needed longest ago make room."""
        key = (layer.layer, expert)
        if key in self._kept:
            self._kept.move_to_end(key)
            self.hits += 1
            return
        self.misses += 1
        self._kept[key] = layer
        self.held += _nbytes(layer)
        while self.held > self.memory and len(self._kept) > 1:
            (_, gone), places = self._kept.popitem(last=False)
            self.held -= _nbytes(places)
            for part in places.parts:
                self._forget(part, gone)

    def bytes(self, part: Part, expert: int) -> memoryview:
        """What the file holds of one expert."""
        start = part.offset(expert)
        return memoryview(self._file(part))[start : start + part.nbytes]

    def _forget(self, part: Part, expert: int) -> None:
        start = part.offset(expert)
        # Whole pages of it alone.
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._file(part).madvise(mmap.MADV_DONTNEED, first, last - first)

    def _file(self, part: Part) -> mmap.mmap:
        path = part.tensor.file
        if path not in self._files:
            with path.open("rb") as file:
                self._files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._files[path]


def _nbytes(layer: LayerPlaces) -> int:
    return sum(part.nbytes for part in layer.parts)


class _MappedExperts:
    """The routed experts of a layer; see `model.experts.Routed`."""

    def __init__(self, layer: LayerPlaces, pages: _Pages, dtype: "mx.Dtype"):
        self._layer, self._pages, self._dtype = layer, pages, dtype

    def steps(
        self,
        routes: "Sequence[tuple[mx.array, mx.array]]",
        meanwhile: "Sequence[mx.array]",
        residuals: "Sequence[mx.array]",
        pause: Callable[[], None],
    ) -> "list[mx.array]":
        return [self._step(rows, np.array(chosen)) for rows, chosen in routes]

    def _step(self, rows: "mx.array", chosen: "np.ndarray[Any, Any]") -> "mx.array":
        import mlx.core as mx

        from ..model.experts import swiglu

        outputs, order = [], []
        for expert in np.unique(chosen):
            self._pages.use(self._layer, int(expert))
            gate, up, down = (self._linear(i, int(expert)) for i in range(3))
            mine = np.flatnonzero(chosen == expert)
            order.append(mine)
            x = rows if len(mine) == len(chosen) else rows[mx.array(mine)]
            outputs.append(down(swiglu(gate(x), up(x))))
            if len(chosen) > 1:
                mx.eval(outputs[-1])  # else the copies of all experts live at once
        if len(outputs) == 1:
            return outputs[0]
        return mx.concatenate(outputs)[mx.array(np.argsort(np.concatenate(order)))]

    def _linear(self, projection: int, expert: int) -> "Linear":
        from ..model.linear import Linear, Matrix

        stored = self._layer.projections[projection]
        arrays = {part.kind: self._array(part, expert) for part in stored.parts}
        return Linear(Matrix(**arrays, quant=stored.quant))

    def _array(self, part: Part, expert: int) -> "mx.array":
        import mlx.core as mx

        from ..streaming.slab import VALUES

        bits = np.dtype(f"u{DTYPE_BITS[part.tensor.dtype] // 8}")
        data = np.frombuffer(self._pages.bytes(part, expert), bits)
        stored = mx.array(data.reshape(part.shape))
        if part.floating:
            return stored.view(VALUES[part.tensor.dtype]).astype(self._dtype)
        return stored
