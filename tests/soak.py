"""A long run of random calls on one loaded model: answers stay right, and memory stays flat.

    python -m tests.soak --seconds 300 [--seed 1]

Chats that are sent to, regenerated, edited, taken back, forked, saved and loaded; replies that
are cancelled, closed, dropped half-read, failed by callbacks, made on several threads at once,
held to a schema or offered tools; with pictures and without; with every kind of KV cache; from a
model in memory, and from one whose experts are streamed into a few slots. After each reply one
fresh pass over its whole prompt and answer, of a model in memory, must give every token the
log-probability that the reply reported. Every so often all is dropped, and what memory is left
must be what was left the first time.
"""

import argparse
import gc
import json
import os
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_maverick.chat import Chat
from mlx_maverick.convert import convert
from mlx_maverick.errors import UsageError
from mlx_maverick.events import Finished, FinishReason, Reply, Token, collect
from mlx_maverick.kv import KVOptions
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.model import Llama4
from mlx_maverick.prompt import Encoded

from .golden import REFERENCE

CONTEXT = 700
SLAB = 300_000  # bytes: slots for 9 of 64 experts
# The chunk of the reference checkpoint is 32, so that conversations pass many boundaries.
CACHES = (
    KVOptions(),
    KVOptions(max_size=64),
    KVOptions(8),
    KVOptions(4, start=50),
    KVOptions(8, start=40, max_size=77),
)
# Natural logarithms. The fresh pass takes other steps, so that sums are rounded otherwise; in
# a quantised cache that now and then makes another code.
DENSE, QUANTISED = 1e-4, 0.05
SCHEMA = {
    "type": "object",
    "properties": {"legs": {"type": "integer", "maximum": 99}, "kind": {"enum": ["fox", "dog"]}},
    "required": ["legs", "kind"],
    "additionalProperties": False,
}
TOOLS = [{"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}]
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "again")
EVERY = 40  # steps between two looks at memory


class Thrown(Exception):
    """By a callback, on purpose."""


@dataclass
class Report:
    """What happened."""

    seconds: float = 0.0
    steps: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    tokens: int = 0
    cached: int = 0  # tokens of prompts
    prompted: int = 0
    worst: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    active: list[int] = field(default_factory=list)  # MLX's bytes, all being dropped
    resident: list[int] = field(default_factory=list)  # the process's bytes then
    objects: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def check(self) -> None:
        """Raises AssertionError unless all was well."""
        assert self.worst[False] <= DENSE, self.worst
        assert self.worst[True] <= QUANTISED, self.worst
        # The first time, lazily imported modules and tables are not there yet.
        assert len(self.active) >= 3, "too short for a judgement"
        assert max(self.active[1:]) - self.active[1] <= 1024, self.active
        assert self.files[-1] <= self.files[1], self.files
        assert self.objects[-1] <= self.objects[1] + 500, self.objects
        if len(self.resident) >= 12:
            # The least of a few: allocators take and give in lumps.
            third = len(self.resident) // 3
            early, late = min(self.resident[third : 2 * third]), min(self.resident[2 * third :])
            assert late - early <= 24 * 2**20, self.resident

    def __str__(self) -> str:
        mb = [round(bytes / 2**20, 1) for bytes in self.resident]
        third = max(1, len(mb) // 3)
        return "\n".join((
            f"{sum(self.steps.values())} steps in {self.seconds:.0f} s: {dict(self.steps)}",
            f"{self.replies} replies of {self.tokens} tokens to prompts of {self.prompted}, of "
            f"which {self.cached} from caches",
            f"largest difference of a log-probability: {self.worst[False]:.2g}, over quantised "
            f"caches {self.worst[True]:.2g}",
            f"MLX's bytes when all is dropped: {min(self.active):,} to {max(self.active):,} "
            f"({len(self.active)} looks)",
            f"resident MB: first {mb[0]}, least of the second third {min(mb[third:] or mb)}, of "
            f"the last {min(mb[2 * third :] or mb)}, most {max(mb)}",
            f"objects {self.objects[0]} to {self.objects[-1]}, open files {self.files[0]} to "
            f"{self.files[-1]}",
        ))  # fmt: skip


class Soak:
    """The state of a run."""

    def __init__(self, model: Maverick, streamed: Path, seed: int, folder: Path):
        """`streamed`: a converted folder."""
        self.random, self.folder, self.report = Random(seed), folder, Report()
        few = load(streamed, context=CONTEXT, expert_memory=SLAB, look_ahead=True)
        assert few.model.streams is not None
        self.streams = few.model.streams
        twin = load(streamed, context=CONTEXT, experts="resident")
        # What a fresh pass is computed with.
        self.twins = {model.model: model.model, few.model: twin.model}
        self.models = [
            Maverick(m.model, m.prompt, m.name, m.budget.changed(CONTEXT, options),
                     m.memory_limit, m.fingerprint)
            for m in (model, few)
            for options in CACHES
        ]  # fmt: skip
        self.pictures = [
            Image.frombytes("RGB", size, bytes(self.random.randbytes(3 * size[0] * size[1])))
            for size in ((30, 20), (56, 56), (80, 30))
        ]
        # Of pictures, by model and digest, for the fresh passes.
        self.features: dict[Llama4, dict[str, mx.array]] = defaultdict(dict)
        self.steps: list[Callable[[], None]] = [
            self.send, self.send, self.send, self.regenerate, self.edit, self.take_back, self.fork,
            self.save_and_load, self.cancel, self.close, self.drop, self.stop_early, self.fail,
            self.stop_string, self.schema, self.tools, self.threads, self.interleave, self.look_up,
        ]  # fmt: skip
        self.restart()

    def run(self, seconds: float = float("inf"), steps: int = 10**9) -> Report:
        """Until one of the two is over."""
        started = time.monotonic()
        while time.monotonic() - started < seconds and sum(self.report.steps.values()) < steps:
            step = self.random.choice(self.steps)
            self.chat = self.random.choice(self.chats)
            with suppress(Full):
                step()
            self.report.steps[step.__name__] += 1
            if sum(self.report.steps.values()) % EVERY == 0:
                self.restart()
                self.measure()
        self.report.seconds = time.monotonic() - started
        return self.report

    def restart(self) -> None:
        self.chat: Chat | None = None
        self.chats = [
            model.chat(system=self.words(3), max_tokens=6, temperature=t, logprobs=2)
            for model in self.models
            for t in (0, 1)
        ]

    def measure(self) -> None:
        chats, self.chats, self.chat = len(self.chats), [], None
        for model in self.models:
            model.run(model.shed)
        self.models[0].run(self.forget_users)
        gc.collect()
        self.report.active.append(self.models[0].run(mx.get_active_memory))
        self.report.resident.append(resident_bytes())
        self.report.objects.append(len(gc.get_objects()))
        self.report.files.append(len(os.listdir("/dev/fd")))
        assert chats
        self.restart()

    def forget_users(self) -> None:
        """What was computed from slots last is kept until they are used again."""
        for bank in self.streams.banks:
            for slot in range(bank.slots.count):
                bank.release(slot)

    # What is asked.

    def words(self, most: int = 15) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, most)))

    def images(self) -> list[Image.Image]:
        count = self.random.choice([0, 0, 0, 0, 1, 1, 2])
        return self.random.sample(self.pictures, count)

    def ask(self, chat: Chat | None = None, **how: Any) -> Any:
        """A turn as a stream; a chat that is full begins anew."""
        chat = chat or self.current
        try:
            return chat.stream(self.words(), self.images(), **how)
        except UsageError as e:
            if "no room" not in str(e):
                raise
            chat.messages.clear()
            raise Full from None

    @property
    def current(self) -> Chat:
        assert self.chat is not None
        return self.chat

    # The steps.

    def send(self) -> None:
        self.right(self.current, collect(self.ask()))

    def regenerate(self) -> None:
        if self.current.turns:
            self.right(self.current, self.current.regenerate())

    def edit(self) -> None:
        chat = self.current
        if chat.turns:
            try:
                self.right(chat, chat.edit(self.words(), self.random.randrange(chat.turns)))
            except UsageError as e:
                if "no room" not in str(e):
                    raise

    def take_back(self) -> None:
        self.current.rewind(self.random.randint(0, self.current.turns))

    def fork(self) -> None:
        fork = self.current.fork()
        fork.model, at = self.current.model, self.random.randrange(len(self.chats))
        self.chats[at] = fork

    def save_and_load(self) -> None:
        chat, file = self.current, self.folder / f"chat-{self.random.randrange(3)}"
        chat.save(file)
        loaded = chat.model.load_chat(file)
        assert loaded.session.length == chat.session.length
        self.chats[self.chats.index(chat)] = loaded
        for one in (chat, loaded):
            self.right(one, collect(self.ask(one)))

    def cancel(self) -> None:
        """At any moment, from another thread."""
        chat, stream = self.current, self.ask()
        timer = threading.Timer(self.random.random() * 0.1, stream.cancel)
        timer.start()
        reply = collect(stream)
        timer.join()
        self.right(chat, reply)

    def close(self) -> None:
        stream = self.ask()
        for _, _ in zip(range(self.random.randint(0, 6)), stream, strict=False):
            pass
        stream.close()
        self.send()

    def drop(self) -> None:
        """Leave it half-read, to Python."""
        for _, _ in zip(range(self.random.randint(1, 6)), self.ask(), strict=False):
            pass

    def stop_early(self) -> None:
        """At any question whether to go on: also between prefill steps."""
        left = self.random.randint(0, 12)

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        self.right(self.current, collect(self.ask(should_stop=stop)))

    def fail(self) -> None:
        """In a callback."""
        left, chat = self.random.randint(0, 8), self.current

        def fail(*_: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Thrown
            return _[1] if _ else False

        with suppress(Thrown):
            if self.random.random() < 0.5:
                collect(self.ask(should_stop=fail))
            else:
                messages = [{"role": "user", "content": self.words()}]
                chat.model.generate(
                    messages, session=chat.session, logits_processors=[fail], max_tokens=6
                )
        if self.random.random() < 0.5:
            chat.session.save(self.folder / "session")
            chat.model.load_session(self.folder / "session")
        self.send()

    def stop_string(self) -> None:
        """The reply ends there; the text is that of the reply without, up to it."""
        model = self.current.model
        how: dict[str, Any] = {"temperature": 1, "seed": self.random.randrange(99)}
        text = self.words()
        whole = model.generate(text, max_tokens=12, **how).text
        if len(whole) > 3:
            at = self.random.randrange(len(whole) - 2)
            stop = whole[at : at + self.random.randint(1, 3)]
            reply = model.generate(text, max_tokens=12, stop=(stop,), **how)
            assert reply.text == whole[: whole.index(stop)]

    def schema(self) -> None:
        model, session = self.current.model, self.current.session
        how: dict[str, Any] = {"temperature": 1.5, "max_tokens": 120, "logprobs": 2}
        prompt = model.encode(self.words(), self.images())
        reply = collect(model.stream_encoded(prompt, session=session, json_schema=SCHEMA, **how))
        if reply.finish_reason is FinishReason.STOP:
            jsonschema.validate(json.loads(reply.text), SCHEMA)
        self.compare(model, prompt, reply, masked=True)

    def tools(self) -> None:
        model, session = self.current.model, self.current.session
        images, text = self.images(), self.words()
        prompt = model.encode(
            [{"role": "user", "content": [
                *({"type": "image", "image": image} for image in images),
                {"type": "text", "text": text},
            ]}], tools=TOOLS,
        )  # fmt: skip
        how: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "logprobs": 1}
        reply = collect(model.stream_encoded(prompt, session=session, tools=TOOLS, **how))
        self.compare(model, prompt, reply)

    def threads(self) -> None:
        """Several chats at once."""
        chats = self.random.sample(self.chats, 3)
        asked = []
        for chat in chats:
            with suppress(Full):
                asked.append((chat, self.ask(chat)))
        replies: list[tuple[Chat, Reply]] = []
        threads = [
            threading.Thread(target=lambda c=c, s=s: replies.append((c, collect(s))))
            for c, s in asked
        ]
        for thread in threads:
            thread.start()
        if self.random.random() < 0.3 and asked:
            asked[0][1].cancel()
        for thread in threads:
            thread.join()
        assert len(replies) == len(asked)
        for chat, reply in replies:
            self.right(chat, reply)

    def interleave(self) -> None:
        """Two seeded replies taking turns are what each is alone."""
        model, texts = self.current.model, [self.words(), self.words()]
        how: dict[str, Any] = {"temperature": 1.2, "max_tokens": 6}
        alone = [model.generate(text, seed=i, **how).ids for i, text in enumerate(texts)]
        left = {i: model.stream(text, seed=i, **how) for i, text in enumerate(texts)}
        found: list[list[int]] = [[], []]
        while left:
            i = self.random.choice(list(left))
            event = next(left[i])
            if isinstance(event, Token) and event.id is not None:
                found[i].append(event.id)
            if isinstance(event, Finished):
                del left[i]
        assert found == alone

    def look_up(self) -> None:
        model = self.current.model
        model.encode_image(self.random.choice(self.pictures))
        model.count_tokens(self.words(), self.images())

    # Whether it is right.

    def right(self, chat: Chat, reply: Reply) -> None:
        """The last answer of a chat."""
        if reply.finish_reason is FinishReason.CANCELLED and not reply.ids:
            return
        assert chat.messages[-1]["token_ids"] == reply.ids
        assert chat.messages[-1]["content"] == reply.text
        self.compare(chat.model, chat.model.encode(chat.messages[:-1]), reply)

    def compare(self, model: Maverick, prompt: Encoded, reply: Reply, masked: bool = False) -> None:
        """With a fresh pass. A mask only makes what is left likelier, all of it equally."""
        stats, ids = reply.stats, reply.ids
        assert stats.prompt_tokens == len(prompt.ids)
        self.report.replies += 1
        self.report.tokens += len(ids)
        self.report.prompted += stats.prompt_tokens
        self.report.cached += stats.cached_tokens
        if not ids:
            return
        twin = self.twins[model.model]
        wanted = model.run(fresh, twin, model.kv, prompt, ids, self.features[twin])
        found = [token for token in reply.tokens if token.id is not None]
        differences = []
        for token, row in zip(found, wanted, strict=True):
            assert token.logprob is not None
            offset = token.logprob - row[token.id] if masked else 0.0
            assert offset >= -1e-3 or model.kv.bits is not None
            differences += [
                abs(one.logprob - row[one.id] - offset) for one in token.likely if not masked
            ]
            differences.append(abs(token.logprob - row[token.id] - offset))
        quantised = model.kv.bits is not None
        self.report.worst[quantised] = max(self.report.worst[quantised], *differences)


class Full(Exception):
    """A chat has no room for another turn."""


def fresh(
    network: Llama4, kv: KVOptions, prompt: Encoded, ids: list[int], kept: dict[str, mx.array]
) -> np.ndarray[Any, Any]:
    """Log-probabilities [len(ids), V] of each token of an answer, computed from nothing but
    the pictures' features that are `kept`."""
    cache = network.make_cache(kv)
    for image in prompt.images:
        if image.digest not in kept:
            kept[image.digest] = network.encode_image(image.pixels)
            mx.eval(kept[image.digest])
    shown = [kept[image.digest] for image in prompt.images]
    features = mx.concatenate(shown) if shown else None
    # Apart: an answer may hold a picture's token, which means nothing there.
    parts = [network.embed(mx.array([prompt.ids]), features)]
    if len(ids) > 1:
        parts.append(network.text.embed_tokens(mx.array([ids[:-1]])))
    x = mx.concatenate(parts, axis=1)
    hidden = [network.text(x[:, a:b], cache) for a, b in cache.spans(x.shape[1])]
    logits = network.text.logits(mx.concatenate(hidden, axis=1)[0, -len(ids) :])
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def resident_bytes() -> int:
    ps = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return int(subprocess.run(ps, capture_output=True, check=True).stdout) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    mini = REFERENCE / "maverick-mini"
    model = load(mini, context=CONTEXT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MLX_MAVERICK_HOME"] = str(folder / "home")
        convert(mini, folder / "streamed", "e4r4", fast=True)
        soak = Soak(model, folder / "streamed", args.seed, folder)
        report = soak.run(seconds=args.seconds)
        print(report)  # noqa: T201 - this is a program
        print(soak.streams.stats)  # noqa: T201
    report.check()


if __name__ == "__main__":
    main()
