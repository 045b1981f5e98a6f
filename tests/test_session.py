"""Sessions: whatever was done to one, the next reply is that of a fresh pass."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_maverick import engine
from mlx_maverick.engine import Sampled
from mlx_maverick.errors import UsageError
from mlx_maverick.events import FinishReason, Prefill
from mlx_maverick.kv import KVOptions
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.model import Llama4
from mlx_maverick.prompt import Encoded
from mlx_maverick.sampling import Sampling
from mlx_maverick.session import Session

CHUNK, CONTEXT, LENGTH = 32, 200, 120
OPTIONS = [
    KVOptions(),
    KVOptions(max_size=40),
    KVOptions(8, start=50),
    KVOptions(4, start=64),
    KVOptions(8, start=45, max_size=57),
    KVOptions(4),
]
LAYERS = 8
# Several prompts with shared beginnings of many lengths.
TEXTS = np.random.default_rng(3).integers(1, 900, (3, LENGTH))


@pytest.fixture(autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prefill step may be left between its layers."""
    monkeypatch.setattr(engine, "PAUSE_FROM", 1)


def prompt(text: int, shared: int, length: int) -> list[int]:
    return [int(id) for id in np.concatenate([TEXTS[0, :shared], TEXTS[text, shared:]])[:length]]


class Driver:
    """Goes through the engine as replies do, and compares all it gives with a fresh pass."""

    def __init__(self, model: Llama4, options: KVOptions, folder: Path):
        self.model, self.options, self.file = model, options, folder / "session"
        self.session = Session(model, "mini", options, CONTEXT)

    def reply(
        self, ids: list[int], new: int = 1, step: int = 2048, stop_at: int | None = None
    ) -> list[Sampled]:
        """Up to `new` tokens; interrupted at the question number `stop_at` if that comes."""
        return reply(self.model, self.session, ids, new, step, stop_at, self.options)

    def through_a_file(self) -> None:
        self.session.save(self.file)
        other = Session(self.model, "mini", self.options, CONTEXT)
        other.load(self.file)
        assert (other.length, other.cache.held) == (self.session.length, self.session.cache.held)
        self.session = other


def reply(
    model: Llama4,
    session: Session,
    ids: list[int],
    new: int,
    step: int,
    stop_at: int | None,
    options: KVOptions,
) -> list[Sampled]:
    asked = 0

    def interrupt() -> FinishReason | None:
        nonlocal asked
        asked += 1
        return FinishReason.CANCELLED if asked - 1 == stop_at else None

    turn = session.begin(Encoded(ids, []))
    found: list[Sampled] = []
    for event in engine.generate(
        model, session.cache, ids, sampling=Sampling(temperature=0, max_tokens=new, logprobs=0),
        context=CONTEXT, interrupt=interrupt, step=step,
    ):  # fmt: skip
        if isinstance(event, Sampled):
            session.append(event.id)
            found.append(event)
        elif isinstance(event, Prefill):
            assert session.length == event.done
        session.check(turn)
    if found:
        compare(model, ids, found, options)
    return found


def compare(model: Llama4, ids: list[int], found: list[Sampled], options: KVOptions) -> None:
    every = mx.array([ids + [token.id for token in found[:-1]]])
    logits = model(every, cache=model.make_cache(options))[0, -len(found) :]
    wanted = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    for token, row in zip(found, wanted, strict=True):
        assert token.logprob is not None
        assert abs(token.logprob - row[token.id]) <= 2e-4
        assert row[token.id] >= row.max() - 4e-4


ASK = st.fixed_dictionaries(
    {
        "text": st.integers(0, 2),
        "shared": st.integers(0, LENGTH) | st.sampled_from([31, 32, 33, 40, 45, 50, 64, 96]),
        "length": st.integers(1, LENGTH) | st.sampled_from([32, 40, 50, 57, 64, 65, 96]),
        "new": st.integers(1, 4),
        "step": st.sampled_from([1, 5, 16, 32, 2048]),
        "stop_at": st.none() | st.integers(0, 40),
    }
)
MOVES = st.lists(
    st.tuples(st.just("ask"), ASK) | st.tuples(st.sampled_from(["fork", "file", "back"]), ASK),
    min_size=2,
    max_size=6,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(options=st.sampled_from(OPTIONS), moves=MOVES)
def test_any_history_gives_what_a_fresh_pass_gives(
    maverick: Maverick, tmp_path: Path, options: KVOptions, moves: list[tuple[str, dict[str, Any]]]
) -> None:
    def history() -> None:
        driver = Driver(maverick.model, options, tmp_path)
        left = []
        driver.reply(prompt(0, 0, 100))
        for move, how in moves:
            if move == "fork":
                left.append(driver.session)
                driver.session = driver.session.fork()
            elif move == "file":
                driver.through_a_file()
            elif move == "back" and left:
                driver.session = left.pop()
            ids = prompt(how["text"], how["shared"], how["length"])
            driver.reply(ids, how["new"], how["step"], how["stop_at"])
        for session in [driver.session, *left]:
            driver.session = session
            driver.reply(prompt(0, 0, LENGTH), 2)

    maverick.run(history)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_prompt_that_changes_at_any_place(
    maverick: Maverick, tmp_path: Path, options: KVOptions
) -> None:
    """In this chunk, in earlier ones, and where a cache rotates or is quantised."""

    def change() -> None:
        driver = Driver(maverick.model, options, tmp_path)
        driver.reply(prompt(0, 0, 105))
        before = driver.session
        for shared in (*range(100, 0, -19), 96, 64, *places(options)):
            driver.session = before.fork()
            driver.reply(prompt(1, shared, 106), step=19)

    maverick.run(change)


def places(options: KVOptions) -> Iterator[int]:
    """Where something happens to a cache, and beside."""
    marks = {CHUNK, 2 * CHUNK, options.start, *options_turns(options)}
    for mark in sorted(marks - {0}):
        yield from (mark - 1, mark, mark + 1)


def options_turns(options: KVOptions) -> list[int]:
    if options.rotation is None:
        return []
    return [options.rotation.size + n * options.rotation.block for n in range(2)]


@pytest.mark.parametrize("options", OPTIONS[1:5], ids=str)
def test_prefill_left_between_any_two_layers(
    maverick: Maverick, tmp_path: Path, options: KVOptions
) -> None:
    """At every place where a cache rotates, is quantised or begins a chunk, and next to it:
    what was begun of a step is forgotten, also by a saved session."""

    def leave() -> None:
        for at in places(options):
            driver = Driver(maverick.model, options, tmp_path)
            driver.reply(prompt(0, 0, at))
            before = driver.session
            assert before.length == at
            for layer in (0, 3, LAYERS - 1):
                driver.session = before.fork()
                assert driver.reply(prompt(0, 0, at + 9), stop_at=layer) == []
                assert driver.session.length == at
                driver.through_a_file()
                driver.reply(prompt(1, at - 3 if layer else at, at + 4), 2)

    maverick.run(leave)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_steps_give_equal_bits(
    maverick: Maverick, tmp_path: Path, options: KVOptions
) -> None:
    """A session, its fork, and what comes back from a file."""

    def run() -> None:
        driver = Driver(maverick.model, options, tmp_path)
        driver.reply(prompt(0, 0, 70), 3)
        sessions = [driver.session, driver.session.fork()]
        driver.through_a_file()
        sessions.append(driver.session)
        found = []
        for session in sessions:
            driver.session = session
            found.append(driver.reply(prompt(1, 66, 110), 6, step=7))
        assert found[0] == found[1] == found[2]

    maverick.run(run)


def raises(calls: int) -> Any:
    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise ZeroDivisionError
        return logits

    return process


@pytest.mark.parametrize("calls", [0, 1, 2, 7])
def test_a_session_whose_reply_failed_can_be_saved(
    maverick: Maverick, tmp_path: Path, calls: int
) -> None:
    """The token that was being computed is not part of it."""
    session = maverick.session()
    with pytest.raises(ZeroDivisionError):
        maverick.generate(
            "Hi there", session=session, logits_processors=[raises(calls)], temperature=0
        )
    session.save(tmp_path / "kv")
    loaded = maverick.load_session(tmp_path / "kv")
    assert 0 <= session.length - loaded.length <= 1
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 5}
    wanted = maverick.generate("Hi there", **how).text
    for one in (loaded, session, session.fork()):
        reply = maverick.generate("Hi there", session=one, **how)
        assert reply.text == wanted
        assert reply.stats.cached_tokens > 0


def test_a_question_that_raises_leaves_the_session_usable(maverick: Maverick) -> None:
    session = maverick.session()
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 5}
    wanted = maverick.generate("word " * 60, **how).text
    for fails_at in (0, 1, 5, 9, 20):
        asked = 0

        def stop(at: int = fails_at) -> bool:
            nonlocal asked
            asked += 1
            if asked > at:
                raise ZeroDivisionError
            return False

        with pytest.raises(ZeroDivisionError):
            maverick.generate("word " * 60, session=session, should_stop=stop, temperature=0)
        assert maverick.generate("word " * 60, session=session, **how).text == wanted


def test_another_models_session_is_refused(maverick: Maverick, scout_mini: Path) -> None:
    other = load(scout_mini, context=256)
    with pytest.raises(UsageError, match="another model's"):
        maverick.generate("Hi", session=other.session())
    assert other.generate("Hi", session=other.session(), max_tokens=2).ids
