"""The Python API: joins model, prompt and engine.

Knows nothing of terminals: it returns replies and yields events. May be used from any thread;
whatever computes does so on the engine's thread.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack

import mlx.core as mx

from . import engine, engine_thread, memory
from .config import ModelConfig
from .errors import DoesNotFit, UsageError
from .events import Reply, collect
from .grammar import JsonSchema
from .image_source import Source
from .images import Picture, listed, load_picture
from .kv import KVOptions
from .memory import Budget
from .model import Llama4
from .prompt import Encoded, Message, Prompt
from .replying import Request, events
from .sampling import Sampling
from .session import PictureFeatures, Session
from .stream import Stream
from .streaming.stats import ExpertStats
from .tools.definitions import definitions, names

if TYPE_CHECKING:
    from .chat import Chat
    from .sampling import LogitsProcessor, Sampler

P = ParamSpec("P")
T = TypeVar("T")

# Encoded pictures kept for the next turn; one takes up to 17 * 144 rows, 25 MB in bf16.
KEPT_PICTURES = 16


class Options(TypedDict, total=False):
    """The fields of `Sampling`, as keywords."""

    temperature: float
    top_p: float
    min_p: float
    top_k: int
    xtc_probability: float
    xtc_threshold: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    logprobs: int | None


class TurnOptions(Options, total=False):
    """All that can be said about one turn of a chat."""

    json_schema: JsonSchema | Mapping[str, Any] | str | None  # what the answer has to be
    sampler: "Sampler | None"  # log-probabilities [1, V] -> token ids [1]
    logits_processors: "Sequence[LogitsProcessor]"  # (tokens [n], logits [1, V]) -> logits
    should_stop: Callable[[], bool]  # asked between tokens, prefill steps and layers


class ReplyOptions(TurnOptions, total=False):
    """All that can be said about one reply."""

    session: Session | None  # a KV cache to go on from, and to leave for the next reply
    sampling: Sampling | None  # instead of single options
    tools: Sequence[Any]  # functions the model may call: definitions, or Python functions


class Maverick:
    """A loaded model. Its methods may be called from any thread, and take turns."""

    def __init__(
        self,
        model: Llama4,
        prompt: Prompt,
        name: str,
        budget: Budget,
        memory_limit: int,
        fingerprint: str,
    ):
        """`memory_limit`: bytes this process may hold. `fingerprint` tells saved KV caches of
        this model from those of others."""
        self.model, self.prompt, self.name, self.budget = model, prompt, name, budget
        self.memory_limit, self.fingerprint = memory_limit, fingerprint
        self._pictures: dict[str, mx.array] = {}
        self._encoding = threading.Lock()  # tokenizers are not made for two threads at once

    @property
    def context(self) -> int:
        """The most tokens a conversation may have."""
        return self.budget.context

    @property
    def kv(self) -> KVOptions:
        """How its KV caches are kept."""
        return self.budget.options

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

    @property
    def experts(self) -> ExpertStats | None:
        """What streaming experts has done since loading; None where all are in memory."""
        streams = self.model.streams
        return None if streams is None else self.run(lambda: streams.stats)

    def generate(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        **options: Unpack[ReplyOptions],
    ) -> Reply:
        """The whole answer to a prompt, or to a conversation.

        `images` (paths, bytes, PIL images, http(s) or data URLs) come before the text of a
        string prompt. `options` are the fields of `Sampling` and those of `ReplyOptions`.
        Raises UsageError, NotFound or BadImage if the message cannot be answered as it stands.
        """
        return collect(self.stream(prompt, images=images, **options))

    def stream(
        self,
        messages: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        **options: Unpack[ReplyOptions],
    ) -> Stream:
        """The same as events: `Prefill`, `Token`, and `Finished` last.

        With a `session`, what its cache shares with this conversation is not computed again.
        Raises as `generate`, before the first event.
        """
        encoded = self.encode(messages, images, options.get("tools", ()))
        return self.stream_encoded(encoded, **options)

    def stream_encoded(self, prompt: Encoded, **options: Unpack[ReplyOptions]) -> Stream:
        """The same for a prompt from `encode`, or `encode_text` for raw text."""
        if not isinstance(prompt, Encoded):
            raise UsageError(f"a prompt is what encode or encode_text gives, not {prompt!r:.40}")
        if prompt.images:
            self._check_vision()
        prompt = checked(prompt, self.context)
        most = self.config.text.vocab_size
        if wrong := [id for id in prompt.ids if not 0 <= id < most]:
            raise UsageError(f"the prompt holds token {wrong[0]} of a vocabulary of {most}")
        request = _request(options)
        if prompt.begun and (request.tools or request.schema):
            raise UsageError(
                "a reply that is gone on with takes neither tools nor a JSON schema: what it has "
                "to be was not asked of its beginning"
            )
        session = options.get("session") or self.session()
        if not isinstance(session, Session):
            raise UsageError(f"session is not a Session but {type(session).__name__}")
        session.check_model(self.model, self.fingerprint)
        should_stop = options.get("should_stop", lambda: False)
        _check_callable("should_stop", should_stop)
        return Stream(lambda stop: events(self, prompt, session, request, stop), should_stop)

    def stream_text(self, text: str, **options: Unpack[ReplyOptions]) -> Stream:
        """Continue raw text without the chat template, as base models need it."""
        return self.stream_encoded(self.encode_text(text), **options)

    def chat(
        self, system: str | None = None, tools: Sequence[Any] = (), **options: Unpack[Options]
    ) -> "Chat":
        """A conversation that keeps its KV cache."""
        from .chat import Chat

        return Chat(self, system, Sampling().changed(options), tools)

    def load_chat(self, path: str | Path, **options: Unpack[Options]) -> "Chat":
        """The conversation in a file that `Chat.save` wrote, with its KV cache; `options`
        instead of those it was saved with. Raises NotFound, and BadCheckpoint or UsageError
        for a file that is damaged or another model's."""
        from .chat import Chat

        return Chat.load(self, path, **options)

    def session(self) -> Session:
        """An empty KV cache, to be given to `stream` again and again."""
        return Session(self.model, self.fingerprint, self.kv, self.context)

    def load_session(self, path: str | Path) -> Session:
        """The session in a file that `Session.save` wrote. Raises as `load_chat`."""
        session = self.session()
        session.load(path)
        return session

    def encode(
        self,
        messages: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        tools: Sequence[Any] = (),
    ) -> Encoded:
        """A conversation as token ids and pictures. Raises as `generate`."""
        with self._encoding:
            return self.prompt.encode(_with_images(messages, images), tools)

    def encode_text(self, text: str) -> Encoded:
        """Raw text as token ids, after BOS and without the chat template."""
        with self._encoding:
            return self.prompt.encode_text(text)

    def count_tokens(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[Source | Picture] = (),
        tools: Sequence[Any] = (),
    ) -> int:
        """Tokens of plain text, without template or BOS; or, of messages or with images, those
        of the whole prompt as `generate` would read it, template and pictures included."""
        if isinstance(prompt, str) and not images and not tools:
            with self._encoding:
                return self.prompt.count_tokens(prompt)
        return len(self.encode(prompt, images, tools).ids)

    def encode_image(self, image: Source | Picture) -> mx.array:
        """What the model sees of a picture: [tiles * tokens_per_tile, hidden], in the model's
        dtype, as it stands at the `<|patch|>` positions of a prompt. Kept for the next time.

        Raises NotFound, BadImage, and UsageError where the model sees no pictures.
        """
        self._check_vision()
        picture = load_picture(image, self.config)
        one = Encoded([], [picture])

        def encode() -> mx.array:
            rows = PictureFeatures(self.model, one, self._pictures).between(0, picture.tokens)
            mx.eval(rows)
            self.forget_pictures()
            return rows

        return self.run(encode)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on the engine's thread and wait for it: for code that computes with
        `model` itself while replies may be on their way."""
        return engine_thread.run(function, *args, **kwargs)

    @property
    def pictures(self) -> dict[str, mx.array]:
        """Encoded pictures by digest, the last used last. For the engine's thread."""
        return self._pictures

    def _check_vision(self) -> None:
        if not self.vision:
            raise UsageError(f"{self.name} sees no pictures: the folder holds no vision tower")

    def make_room(self, session: Session, tokens: int) -> None:
        """See that a conversation of `tokens` has room, and free what can be made again if it
        has not. For the engine's thread. Raises DoesNotFit."""
        room = (self.budget, self.memory_limit, tokens, session.nbytes)
        try:
            memory.check_reply(*room, held=mx.get_active_memory())
        except DoesNotFit:
            self.shed()
            memory.check_reply(*room, held=mx.get_active_memory())

    def forget_pictures(self, most: int = KEPT_PICTURES) -> None:
        """Keep no more than the `most` encoded pictures used last."""
        # A reply that nobody reads on ends on the thread that drops it: others may be at it.
        kept = list(self._pictures)
        for digest in kept[: max(0, len(kept) - most)]:
            self._pictures.pop(digest, None)

    def shed(self) -> None:
        """Give back memory that holds what can be made again. For the engine's thread."""
        self.forget_pictures(0)
        mx.clear_cache()


def checked(prompt: Encoded, context: int) -> Encoded:
    """`prompt`. Raises UsageError if it is empty or leaves no room for an answer."""
    if not prompt.ids:
        raise UsageError("the prompt is empty; write a message")
    engine.check_length(len(prompt.ids), context)
    return prompt


_SAMPLING = frozenset(f.name for f in fields(Sampling))
_REPLY = frozenset(ReplyOptions.__annotations__)


def _request(options: ReplyOptions) -> Request:
    """What is asked of one reply. Raises UsageError."""
    if unknown := [name for name in options if name not in _REPLY]:
        raise UsageError(f"unknown option {unknown[0]!r}; Sampling and ReplyOptions have them all")
    single: dict[str, Any] = {k: v for k, v in options.items() if k in _SAMPLING}
    sampling = options.get("sampling")
    if not isinstance(sampling, Sampling | None):
        raise UsageError(f"sampling is not a Sampling but {type(sampling).__name__}")
    if sampling is not None and single:
        raise UsageError("give either sampling or single options, not both")
    schema = options.get("json_schema")
    if schema is not None and not isinstance(schema, JsonSchema):
        schema = JsonSchema.parse(schema)
    if schema is not None and options.get("tools"):
        raise UsageError("a JSON schema leaves no room for tool calls; give one of the two")
    sampler, processors = options.get("sampler"), options.get("logits_processors", ())
    if sampler is not None:
        _check_callable("sampler", sampler)
    if not isinstance(processors, Sequence):
        raise UsageError(f"logits_processors is not a list but {type(processors).__name__}")
    for processor in processors:
        _check_callable("a logits processor", processor)
    return Request(
        sampling or Sampling(**single),
        tuple(names(definitions(options.get("tools", ())))),
        schema,
        sampler,
        tuple(processors),
    )


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise UsageError(f"{name} is not a function but {type(value).__name__}")


def _with_images(
    messages: str | Sequence[Message], images: Sequence[Source | Picture]
) -> str | Sequence[Message]:
    images = listed(images)
    if not images:
        return messages
    if not isinstance(messages, str):
        raise UsageError("images go with a string prompt; in messages, put them into content")
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": messages}]}]
