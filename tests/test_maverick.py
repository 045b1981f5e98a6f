"""The Python API: replies, events, prefixes, pictures, refusals."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from PIL import Image

from mlx_maverick import memory
from mlx_maverick.errors import BadImage, DoesNotFit, NotFound, UsageError
from mlx_maverick.events import Event, Finished, FinishReason, Prefill, Token, collect
from mlx_maverick.loading import Unread, load
from mlx_maverick.maverick import KEPT_PICTURES, Maverick
from mlx_maverick.sampling import Sampling

from .golden import REFERENCE

PICTURE = REFERENCE / "maverick-mini/golden/images/05_640x480_RGB.png"
OTHER = REFERENCE / "maverick-mini/golden/images/03_200x130_RGB.png"


def see(picture: Any, text: str = "What is this?") -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, Token))


def test_generate_is_stream_collected(maverick: Maverick) -> None:
    reply = maverick.generate("Why is the sky blue?", max_tokens=12, temperature=0)
    events = list(maverick.stream("Why is the sky blue?", max_tokens=12, temperature=0))
    assert reply.text == text_of(events)
    assert reply.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    assert isinstance(events[0], Prefill)
    assert isinstance(events[-1], Finished)
    assert events[-1].stats.prompt_tokens == reply.stats.prompt_tokens > 0
    assert reply.stats.peak_memory > maverick.nbytes


def test_text_is_that_of_the_tokens(maverick: Maverick) -> None:
    events = list(maverick.stream("Tell me more", max_tokens=40, temperature=0))
    ids = [e.id for e in events if isinstance(e, Token)]
    if len(ids) > 1 and ids[-1] == ids[-2]:  # the rest that was held back
        ids.pop()
    decoded = maverick.prompt.tokenizer.decode(ids)
    assert text_of(events).strip() == decoded.strip()


def test_the_answer_depends_on_the_picture(maverick: Maverick) -> None:
    def answer(picture: Any) -> str:
        return maverick.generate(see(picture), max_tokens=12, temperature=0).text

    assert answer(PICTURE) == answer(PICTURE)
    assert len({answer(PICTURE), answer(OTHER), answer(Image.new("RGB", (640, 480)))}) == 3


def test_images_of_a_string_prompt(maverick: Maverick) -> None:
    short = maverick.generate("What is this?", images=[PICTURE], max_tokens=8, temperature=0)
    long = maverick.generate(see(PICTURE), max_tokens=8, temperature=0)
    assert short.text == long.text
    single = maverick.generate("What is this?", images=str(PICTURE), max_tokens=8, temperature=0)
    assert single.text == short.text
    with pytest.raises(UsageError, match="content"):
        maverick.generate(see(PICTURE), images=[OTHER])


def test_a_session_computes_only_what_is_new(maverick: Maverick) -> None:
    session = maverick.session()
    options: dict[str, Any] = {"max_tokens": 10, "temperature": 0}
    first = collect(maverick.stream(see(PICTURE), session=session, **options))
    messages = [
        *see(PICTURE),
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "And now?"},
    ]
    again = collect(maverick.stream(messages, session=session, **options))
    # Random weights write broken characters, which do not encode to the tokens they came
    # from; so at worst the chunk in which the answer began is computed again.
    assert again.stats.cached_tokens >= first.stats.prompt_tokens // 32 * 32
    assert again.text == maverick.generate(messages, **options).text


def test_a_changed_picture_is_a_changed_prefix(maverick: Maverick) -> None:
    session = maverick.session()
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    a, b = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")
    collect(maverick.stream(see(a), session=session, **options))
    other = collect(maverick.stream(see(b), session=session, **options))
    assert other.stats.cached_tokens < other.stats.prompt_tokens - 4
    assert other.text == maverick.generate(see(b), **options).text


def test_regenerating_rewinds_exactly(maverick: Maverick) -> None:
    session = maverick.session()
    prompt = "Say something about the weather in the mountains, please, and take your time."
    options: dict[str, Any] = {"max_tokens": 70, "temperature": 0}
    first = collect(maverick.stream(prompt, session=session, **options))
    second = collect(maverick.stream(prompt, session=session, **options))
    assert second.text == first.text
    assert 0 < second.stats.cached_tokens < second.stats.prompt_tokens


def test_stop_strings_end_the_answer(maverick: Maverick) -> None:
    whole = maverick.generate("Count", max_tokens=40, temperature=0).text
    stop = whole[8:11]
    cut = maverick.generate("Count", max_tokens=40, temperature=0, stop=(stop,))
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason is FinishReason.STOP
    assert cut.stats.new_tokens < 40


def test_cancelling(maverick: Maverick) -> None:
    seen: list[Event] = []
    for event in maverick.stream("Go on", should_stop=lambda: len(seen) > 4, temperature=0):
        seen.append(event)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reason is FinishReason.CANCELLED


def test_encoded_pictures_are_kept_but_not_without_end(maverick: Maverick) -> None:
    for i in range(KEPT_PICTURES + 3):
        maverick.generate(see(Image.new("RGB", (56, 56), (i, 0, 0))), max_tokens=1)
    assert len(maverick.pictures) == KEPT_PICTURES
    for i in range(3):  # also if nobody listens to the end
        events = maverick.stream(see(Image.new("RGB", (56, 56), (i, 9, 0))))
        while not isinstance(next(events), Token):
            pass
        events.close()
    assert len(maverick.pictures) == KEPT_PICTURES


def test_a_prompt_of_many_pictures_keeps_few_at_a_time(maverick: Maverick) -> None:
    maverick.run(maverick.forget_pictures, 0)
    seen = [Image.new("RGB", (56, 56), (i, i, 0)) for i in range(KEPT_PICTURES + 3)]
    most = 0
    for event in maverick.stream("Which?", images=seen, max_tokens=1):
        if isinstance(event, Prefill):
            most = max(most, len(maverick.pictures))
    assert most == KEPT_PICTURES


@pytest.mark.parametrize("text", ["Once upon a time", "<|begin_of_text|>Once upon a time"])
def test_raw_text_is_continued(maverick: Maverick, text: str) -> None:
    reply = collect(maverick.stream_text(text, max_tokens=5, temperature=0))
    assert reply.stats.prompt_tokens == 1 + maverick.count_tokens("Once upon a time")


def test_messages_are_refused_before_the_first_event(maverick: Maverick) -> None:
    with pytest.raises(UsageError, match="empty"):
        maverick.stream("")
    with pytest.raises(NotFound):
        maverick.stream(see("no-such-file.png"))
    with pytest.raises(BadImage):
        maverick.stream(see(b"no picture"))
    with pytest.raises(UsageError, match="temperature"):
        maverick.stream("x", temperature=-1)
    with pytest.raises(UsageError, match="either"):
        maverick.stream("x", sampling=Sampling(), temperature=0)
    with pytest.raises(UsageError, match="either"):
        maverick.stream_text("x", sampling=Sampling(), temperature=0)


def test_a_prompt_longer_than_the_context(maverick_mini: Path) -> None:
    small = load(maverick_mini, context=64)
    with pytest.raises(UsageError, match="context of 64"):
        small.generate("word " * 100)
    assert small.generate("Hi", max_tokens=2).stats.new_tokens <= 2


def test_load_checks_the_context(maverick_mini: Path) -> None:
    with pytest.raises(UsageError, match="1048576"):
        load(maverick_mini, context=2_000_000)
    with pytest.raises(UsageError, match="context 1 "):
        load(maverick_mini, context=1)
    with pytest.raises(UsageError, match="context '5'"):
        load(maverick_mini, context="5")  # type: ignore[arg-type]


def test_load_refuses_before_anything_big_is_read(
    maverick_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_limit", lambda: 10_000_000)
    monkeypatch.setattr("mlx_maverick.loading.load_model", lambda *a: pytest.fail("was read"))
    with pytest.raises(DoesNotFit, match="weights"):
        load(maverick_mini)


def test_prompts_are_checked_without_the_weights(
    maverick_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_maverick.loading.load_model", lambda *a: pytest.fail("was read"))
    unread = Unread.open(maverick_mini, context=64)
    assert unread.encode("Hi").ids == unread.prompt.encode("Hi").ids
    for bad, why in (("", "empty"), ("word " * 100, "context of 64")):
        with pytest.raises(UsageError, match=why):
            unread.encode(bad)
    with pytest.raises(NotFound):
        unread.encode(see("no-such-file.png"))
    with pytest.raises(UsageError, match="context of 64"):
        unread.encode_text("word " * 100)


def test_a_text_only_model_refuses_pictures_at_once(maverick_mini: Path, tmp_path: Path) -> None:
    tensors: dict[str, mx.array] = {}
    for shard in sorted(maverick_mini.glob("*.safetensors")):
        tensors |= {n: a for n, a in mx.load(str(shard)).items() if n.startswith("language")}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    for file in maverick_mini.iterdir():
        if file.suffix in (".json", ".jinja") and "index" not in file.name:
            shutil.copy(file, tmp_path)
    blind = load(tmp_path, context=512)
    assert not blind.vision
    assert blind.generate("Hi", max_tokens=2).stats.new_tokens
    with pytest.raises(UsageError, match="sees no pictures"):
        blind.stream(see(PICTURE))


def test_load_by_name(maverick: Maverick) -> None:
    assert maverick.name == "maverick-mini"
    assert maverick.context == 4096
    assert maverick.parameters == 4_655_808


def test_two_streams_may_take_turns(maverick: Maverick) -> None:
    """On one thread, each with its own cache and detokenizer."""
    a = maverick.stream("One", max_tokens=6, temperature=0)
    b = maverick.stream("Two", max_tokens=6, temperature=0)
    mixed: tuple[list[Event], list[Event]] = ([], [])
    for pair in zip(a, b, strict=False):
        for events, event in zip(mixed, pair, strict=True):
            events.append(event)
    shortest = min(len(m) for m in mixed)
    alone = list(maverick.stream("One", max_tokens=6, temperature=0))
    assert text_of(mixed[0]) == text_of(alone[:shortest])


def test_a_stop_string_that_is_complete_only_at_the_end(maverick: Maverick) -> None:
    """A lone space is held back until it is known what follows."""
    space = maverick.prompt.plain_ids(" ")[0]
    how: dict[str, Any] = {"temperature": 0, "logit_bias": {space: 100}, "max_tokens": 1}
    assert maverick.generate("Hi", **how).text == " "
    reply = maverick.generate("Hi", stop=(" ",), **how)
    assert (reply.text, reply.finish_reason) == ("", FinishReason.STOP)


def test_special_tokens_are_stop_strings_like_any_other(maverick: Maverick) -> None:
    start = maverick.prompt.special["<|python_start|>"]
    reply = maverick.generate(
        "Hi", temperature=0, logit_bias={start: 100}, stop=("<|python_start|>",), max_tokens=5
    )
    assert (reply.text, reply.finish_reason, reply.ids) == ("", FinishReason.STOP, [start])


def test_an_answer_that_fills_the_context(maverick_mini: Path) -> None:
    chat = load(maverick_mini, context=40).chat(temperature=0)
    reply = chat.send("Hi")
    assert reply.finish_reason is FinishReason.LENGTH
    assert reply.stats.prompt_tokens + reply.stats.new_tokens == 40
    before = list(chat.messages)
    with pytest.raises(UsageError, match="context of 40"):
        chat.send("Go on")
    assert chat.messages == before
    assert chat.regenerate().text == reply.text


def test_one_token(maverick: Maverick) -> None:
    session = maverick.session()
    reply = maverick.generate("Hi", session=session, max_tokens=1, temperature=0)
    assert (len(reply.ids), session.length) == (1, reply.stats.prompt_tokens)
    longer = maverick.generate("Hi", session=session, max_tokens=2, temperature=0)
    assert longer.ids[:1] == reply.ids
