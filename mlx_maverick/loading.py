"""From a folder's name to a model that answers: found, checked against the machine, read.

Knows nothing of replies. Nothing big is read before it is known to fit.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import engine_thread, hub, memory
from .cache import Cache, store
from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import Interrupted, UsageError
from .fingerprint import model_fingerprint
from .kv import DENSE, KVOptions
from .maverick import Maverick, checked
from .memory import Budget
from .model import Llama4, default_dtype, load_model
from .prompt import Encoded, Message, Prompt
from .streaming import counts
from .streaming.decide import decide, streamable
from .streaming.options import ExpertOptions, Mode
from .streaming.plan import Plan
from .streaming.streams import Streams

DTYPES = (mx.float32, mx.bfloat16, mx.float16)

EXPERTS = ExpertOptions()

Progress = Callable[[int, int], None]  # layers done, of how many


def load(
    model: str | Path,
    context: int | None = None,
    dtype: mx.Dtype | None = None,
    progress: Progress | None = None,
    *,
    kv_bits: int | None = None,
    quantized_kv_start: int = 0,
    max_kv_size: int | None = None,
    experts: str = "auto",
    expert_memory: float | str | None = None,
    look_ahead: bool = False,
    file_cache: bool = False,
    route_log: str | Path | None = None,
) -> Maverick:
    """Load a model folder, a repository in the Hub's cache, or "demo", which comes with the
    package.

    `context` is the most tokens a conversation may have (None: 32,768, or what the model
    has); memory is checked for one such conversation, and again, for what others hold by then,
    before each reply. `kv_bits` 8 or 4 quantises the KV cache, from a length of
    `quantized_kv_start` tokens on; `max_kv_size` bounds the tokens that the global layers
    keep: the first few, and the latest. `progress(done, layers)` is called while reading, on
    the engine's thread.

    `experts`: "resident" keeps all routed experts in memory, "stream" some of them, and reads
    others from the folder when they are wanted, with the same results; "auto" streams if the
    model does not fit otherwise. Streamed ones get `expert_memory` bytes (or "90GB"), or what the
    budget leaves. `look_ahead` reads what the next layer will probably want, `file_cache` lets
    the system keep a copy of what is read, `route_log` is a file to write choices to; any of
    these means to stream.

    Raises NotFound, BadCheckpoint, UsageError, and DoesNotFit before anything big is read.
    """
    kv = KVOptions(kv_bits, quantized_kv_start, max_kv_size)
    options = ExpertOptions.of(experts, expert_memory, look_ahead, file_cache, route_log)
    return Unread.open(model, context, dtype, kv, options).load(progress)


@dataclass(frozen=True)
class Unread:
    """A model that was checked and fits, and whose weights are not read yet.

    Prompts can be encoded already, so that a mistake in one does not cost a long load.
    """

    folder: Path
    name: str
    dtype: mx.Dtype
    prompt: Prompt
    budget: Budget
    memory_limit: int  # bytes
    fingerprint: str  # see fingerprint.model_fingerprint
    plan: Plan | None  # of streamed experts
    options: ExpertOptions

    @staticmethod
    def open(
        model: str | Path,
        context: int | None = None,
        dtype: mx.Dtype | None = None,
        kv: KVOptions = DENSE,
        experts: ExpertOptions = EXPERTS,
    ) -> "Unread":
        """Raises as `load`."""
        folder = hub.resolve(model)
        config = ModelConfig.from_folder(folder)
        kv.check(config.text)
        most = config.text.max_position_embeddings
        context = min(memory.DEFAULT_CONTEXT, most) if context is None else context
        if not isinstance(context, int) or not 2 <= context <= most:
            raise UsageError(f"context {context!r} is not between 2 and the model's {most} tokens")
        checkpoint = Checkpoint.open(folder)
        dtype = dtype or default_dtype()
        if not isinstance(dtype, mx.Dtype) or dtype not in DTYPES:
            raise UsageError(
                f"dtype {dtype!r} cannot be computed in; use mlx.core's float32, bfloat16 or "
                "float16"
            )
        weights = checkpoint.memory(dtype.size)
        budget = Budget.of(config, weights, context, element_bytes=dtype.size, options=kv)
        limit, held = memory.machine_limit(), mx.get_active_memory()
        largest = mx.device_info().get("max_buffer_length")  # Metal only
        budget, plan = decide(
            checkpoint, config, budget, experts, limit, held, int(largest) if largest else None
        )
        also = None
        if experts.mode is Mode.RESIDENT and streamable(checkpoint, config, budget, limit, held):
            also = "leave out --experts resident, to stream them"
        memory.check(budget, limit, str(model), held=held, also=also)
        prompt = Prompt.from_folder(folder)
        fingerprint = model_fingerprint(folder, dtype)
        return Unread(
            folder, Path(model).name, dtype, prompt, budget, limit, fingerprint, plan, experts
        )

    def load(self, progress: Progress | None = None) -> Maverick:
        """Read the weights. Raises BadCheckpoint."""
        if progress is not None and not callable(progress):
            raise UsageError(f"progress {progress!r} is not a function of (done, layers)")
        given_up = threading.Event()

        def report(done: int, total: int) -> None:
            if given_up.is_set() or engine_thread.ending():
                raise Interrupted("interrupted")
            if progress is not None:
                progress(done, total)

        def read() -> Llama4:
            memory.set_limits(self.memory_limit)
            return load_model(self.folder, self.dtype, report, self._streams())

        try:
            model = engine_thread.run(read)
        except BaseException:
            given_up.set()  # an interrupted wait leaves the engine's thread reading
            raise
        return Maverick(
            model, self.prompt, self.name, self.budget, self.memory_limit, self.fingerprint
        )

    def _streams(self) -> Streams | None:
        if self.plan is None:
            return None
        saved = counts.place(self.fingerprint)
        return Streams(self.plan, self.dtype, self.options, saved)

    def check_cache(self, path: str | Path) -> None:
        """Raises what `Maverick.load_session` would, as far as the file's header tells."""
        config, budget = self.prompt.config, self.budget
        store.check_file(
            path,
            lambda: Cache(config.text, budget.options, budget.context),
            fingerprint=self.fingerprint,
        )

    def encode(self, messages: str | Sequence[Message], tools: Sequence[Any] = ()) -> Encoded:
        """A conversation that `Maverick.stream_encoded` can take. Raises UsageError,
        NotFound or BadImage for one that cannot be answered."""
        return checked(self.prompt.encode(messages, tools), self.budget.context)

    def encode_text(self, text: str) -> Encoded:
        """Raw text without the chat template, as base models need it."""
        return checked(self.prompt.encode_text(text), self.budget.context)
