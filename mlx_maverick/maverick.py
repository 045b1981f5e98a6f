"""The Python API: joins model, prompt and engine.

Knows nothing of terminals: it returns replies and yields events. A `Maverick` belongs to the
thread that loaded it, because MLX's streams do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import mlx.core as mx
from PIL import Image

from . import engine, hub, memory
from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import UsageError
from .events import Event, Finished, FinishReason, Reply, Token, collect
from .image_source import Source
from .images import Picture
from .model import Llama4, default_dtype, load_model, loaded_bytes
from .prompt import Encoded, Message, Prompt
from .sampling import Sampling
from .session import PictureFeatures, Session
from .textstream import TextStream

if TYPE_CHECKING:
    from .chat import Chat

# Encoded pictures kept for the next turn; one takes up to 17 * 144 rows, 25 MB in bf16.
KEPT_PICTURES = 16


class Options(TypedDict, total=False):
    """The fields of `Sampling`, as keywords."""

    temperature: float
    top_p: float
    min_p: float
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]


def load(
    model: str | Path,
    context: int | None = None,
    dtype: mx.Dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "Maverick":
    """Load a model folder, or a repository in the Hub's cache.

    `context` is the most tokens a conversation may have (None: 32,768, or what the model
    has); memory is checked for it. `progress(done, layers)` is called while reading.
    Raises NotFound, BadCheckpoint, UsageError, and DoesNotFit before anything big is read.
    """
    return Unread.open(model, context, dtype).load(progress)


@dataclass(frozen=True)
class Unread:
    """A model that was checked and fits, and whose weights are not read yet.

    Prompts can be encoded already, so that a mistake in one does not cost a long load.
    """

    folder: Path
    name: str
    context: int
    dtype: mx.Dtype
    prompt: Prompt
    memory_limit: int

    @staticmethod
    def open(
        model: str | Path, context: int | None = None, dtype: mx.Dtype | None = None
    ) -> "Unread":
        """Raises as `load`."""
        folder = hub.resolve(model)
        config = ModelConfig.from_folder(folder)
        most = config.text.max_position_embeddings
        context = min(memory.DEFAULT_CONTEXT, most) if context is None else context
        if not isinstance(context, int) or not 2 <= context <= most:
            raise UsageError(f"context {context!r} is not between 2 and the model's {most} tokens")
        checkpoint = Checkpoint.open(folder)
        dtype = dtype or default_dtype()
        weights = loaded_bytes(checkpoint, dtype.size)
        budget = memory.Budget.of(config, weights, context, element_bytes=dtype.size)
        limit = memory.machine_limit()
        memory.check(budget, limit, str(model))
        prompt = Prompt.from_folder(folder)
        return Unread(folder, Path(model).name, context, dtype, prompt, limit)

    def load(self, progress: Callable[[int, int], None] | None = None) -> "Maverick":
        """Read the weights. Raises BadCheckpoint."""
        memory.set_limits(self.memory_limit)
        model = load_model(self.folder, self.dtype, progress)
        return Maverick(model, self.prompt, self.name, self.context)

    def encode(self, messages: str | Sequence[Message]) -> Encoded:
        """A conversation that `Maverick.stream_encoded` can take. Raises UsageError,
        NotFound or BadImage for one that cannot be answered."""
        return _checked(self.prompt.encode(messages), self.context)

    def encode_text(self, text: str) -> Encoded:
        """Raw text without the chat template, as base models need it."""
        return _checked(self.prompt.encode_text(text), self.context)


def _checked(prompt: Encoded, context: int) -> Encoded:
    engine.check_length(len(prompt.ids), context)
    return prompt


class Maverick:
    """A loaded model. Use it from the thread that loaded it."""

    def __init__(self, model: Llama4, prompt: Prompt, name: str, context: int):
        self.model, self.prompt, self.name, self.context = model, prompt, name, context
        self._pictures: dict[str, mx.array] = {}

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def vision(self) -> bool:
        """Whether it sees pictures."""
        return self.model.vision is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return self.model.nbytes

    @property
    def parameters(self) -> int:
        return self.model.parameters

    def generate(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        **options: Unpack[Options],
    ) -> Reply:
        """The whole answer to a prompt, or to a conversation.

        `images` (paths, bytes, PIL images, http(s) or data URLs) come before the text of a
        string prompt. `options` are the fields of `Sampling`. Raises UsageError, NotFound or
        BadImage if the message cannot be answered as it stands.
        """
        return collect(self.stream(prompt, images=images, **options))

    def stream(
        self,
        messages: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        session: Session | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        **options: Unpack[Options],
    ) -> Iterator[Event]:
        """The same as events: `Prefill`, `Token`, and `Finished` last.

        With a `session`, what its cache shares with this conversation is not computed again.
        `should_stop` is asked between prefill steps and between tokens, from any thread's
        flag. Raises as `generate`, before the first event.
        """
        sampling = _one_sampling(sampling, options)
        encoded = self.prompt.encode(_with_images(messages, images))
        return self.stream_encoded(encoded, session, sampling, should_stop)

    def stream_encoded(
        self,
        prompt: Encoded,
        session: Session | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """The same for a prompt from `Prompt.encode`, or `encode_text` for raw text."""
        if prompt.images and not self.vision:
            raise UsageError(f"{self.name} sees no pictures: the folder holds no vision tower")
        prompt = _checked(prompt, self.context)
        return self._events(prompt, session or self.session(), sampling or Sampling(), should_stop)

    def stream_text(
        self, text: str, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> Iterator[Event]:
        """Continue raw text without the chat template, as base models need it."""
        sampling = _one_sampling(sampling, options)
        return self.stream_encoded(self.prompt.encode_text(text), sampling=sampling)

    def chat(self, system: str | None = None, **options: Unpack[Options]) -> "Chat":
        """A conversation that keeps its KV cache."""
        from .chat import Chat

        return Chat(self, system, Sampling(**options))

    def session(self) -> Session:
        """An empty KV cache, to be given to `stream` again and again."""
        return Session(self.model)

    def count_tokens(self, text: str) -> int:
        """Tokens of plain text, without template or BOS."""
        return self.prompt.count_tokens(text)

    def _events(
        self,
        prompt: Encoded,
        session: Session,
        sampling: Sampling,
        should_stop: Callable[[], bool],
    ) -> Iterator[Event]:
        text = TextStream(self.prompt.detokenizer(), sampling.stop)
        session.begin(prompt)
        last = -1
        try:
            for event in engine.generate(
                self.model,
                session.cache,
                prompt.ids,
                sampling=sampling,
                context=self.context,
                stop_ids=self.prompt.stop_ids,
                features=PictureFeatures(self.model, prompt, self._pictures),
                should_stop=lambda: text.stopped or should_stop(),
            ):
                if isinstance(event, engine.Sampled):
                    session.append(event.id)
                    if not event.stop:
                        last = event.id
                        yield Token(text.add(event.id), event.id)
                elif isinstance(event, Finished):
                    if rest := text.finish():
                        yield Token(rest, last)
                    reason = FinishReason.STOP if text.stopped else event.reason
                    yield Finished(reason, event.stats)
                else:
                    yield event
        finally:
            self._forget_pictures()  # also when the caller stops listening

    def _forget_pictures(self) -> None:
        while len(self._pictures) > KEPT_PICTURES:
            del self._pictures[next(iter(self._pictures))]


def _one_sampling(sampling: Sampling | None, options: Options) -> Sampling:
    if sampling is not None and options:
        raise UsageError("give either sampling or single options, not both")
    return sampling or Sampling(**options)


def _with_images(
    messages: str | Sequence[Message], images: Sequence[Source | Picture]
) -> str | Sequence[Message]:
    if isinstance(images, str | bytes | Path | Image.Image):
        images = [images]  # one picture is as good as a list of one
    if not images:
        return messages
    if not isinstance(messages, str):
        raise UsageError("images go with a string prompt; in messages, put them into content")
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": messages}]}]
