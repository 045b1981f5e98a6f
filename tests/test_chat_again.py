"""A conversation changed: regenerated, edited, forked, saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_maverick.chat import Chat
from mlx_maverick.errors import BadCheckpoint, MaverickError, NotFound, UsageError
from mlx_maverick.events import Finished, FinishReason, Prefill, Token
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick

from .golden import REFERENCE

PICTURE = REFERENCE / "maverick-mini/golden/images/03_200x130_RGB.png"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture
def chat(maverick: Maverick) -> Chat:
    """Two turns, the second about a picture."""
    chat = maverick.chat(system="Be brief.", **GREEDY)
    chat.send("Tell me about the mountains in the north of the country")
    chat.send("And what is this?", images=[PICTURE])
    return chat


def fresh(chat: Chat) -> str:
    """The last answer, had everything been computed anew."""
    return chat.model.generate(chat.messages[:-1], **GREEDY).text


def test_only_what_is_new_is_computed(chat: Chat) -> None:
    """Also where the model's tokens are not those that its text encodes to, as with the
    broken characters that random weights write."""
    before = chat.session.length
    reply = chat.send("And its colour?")
    # The last token of an answer that was cut is not in the cache yet.
    assert reply.stats.cached_tokens >= before
    assert reply.text == fresh(chat)


def test_regenerating_gives_the_same_from_the_same_place(chat: Chat) -> None:
    was, length = chat.messages[-1]["content"], len(chat.messages)
    reply = chat.regenerate()
    assert reply.text == was == chat.messages[-1]["content"]
    assert len(chat.messages) == length
    assert reply.stats.cached_tokens >= reply.stats.prompt_tokens // 32 * 32 - 32 > 0


def test_the_old_answer_stays_until_there_is_a_new_one(chat: Chat) -> None:
    was = chat.messages
    stream = chat.stream_regenerate()
    next(stream)
    stream.close()
    assert chat.messages == was


def test_editing(chat: Chat) -> None:
    reply = chat.edit("And what are these?")
    assert reply.text == fresh(chat)
    assert chat.messages[-2]["content"][-1]["text"] == "And what are these?"
    assert chat.messages[-2]["content"][0]["type"] == "image"  # its picture stays
    reply = chat.edit("And what now?", images=[])
    assert chat.messages[-2]["content"] == "And what now?"
    assert reply.text == fresh(chat)
    reply = chat.edit("Tell me about the sea", turn=0)
    assert chat.turns == 1
    assert reply.text == fresh(chat)
    with pytest.raises(UsageError, match="no turn 1: 1 questions"):
        chat.edit("x", turn=1)


def test_regenerating_nothing(maverick: Maverick) -> None:
    with pytest.raises(UsageError, match="0 questions"):
        maverick.chat().regenerate()


def test_forks_go_their_own_ways(chat: Chat) -> None:
    other = chat.fork()
    first, second = chat.send("Now in French"), other.send("Now in German, please")
    assert first.stats.cached_tokens > 0
    assert second.stats.cached_tokens > 0
    assert first.text == fresh(chat)
    assert second.text == fresh(other)
    assert chat.messages[:-2] == other.messages[:-2]
    for one in (chat, other):
        reply = one.send("And again")
        assert reply.text == fresh(one)
        assert reply.stats.cached_tokens > first.stats.prompt_tokens


def test_an_answer_whose_text_was_changed_counts_as_changed(chat: Chat) -> None:
    chat.messages[-1]["content"] = "Something else."
    reply = chat.send("Go on")
    assert reply.text == fresh(chat)
    del chat.messages[-3]["token_ids"]
    assert reply.text == fresh(chat)


def test_saving_and_loading(chat: Chat, tmp_path: Path, maverick_mini: Path) -> None:
    chat.save(tmp_path / "chat.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["chat.safetensors"]
    wanted = chat.send("And its colour?")
    loaded = load(maverick_mini, context=4096).load_chat(tmp_path / "chat.safetensors")
    assert loaded.sampling == chat.sampling
    again = loaded.send("And its colour?")
    assert again.text == wanted.text
    assert again.stats.cached_tokens == wanted.stats.cached_tokens
    assert loaded.edit("And what are these?", turn=1).text == fresh(loaded)


def test_options_may_be_other_ones(chat: Chat, tmp_path: Path) -> None:
    chat.save(tmp_path / "chat")
    loaded = chat.model.load_chat(tmp_path / "chat", max_tokens=3)
    assert (loaded.sampling.max_tokens, loaded.sampling.temperature) == (3, 0)
    assert loaded.send("And?").stats.new_tokens <= 3


def test_what_cannot_be_loaded(chat: Chat, tmp_path: Path, scout_mini: Path) -> None:
    m, file = chat.model, tmp_path / "chat"
    with pytest.raises(NotFound):
        m.load_chat(file)
    chat.session.save(file)
    with pytest.raises(BadCheckpoint, match="no conversation; use load_session"):
        m.load_chat(file)
    assert m.load_session(file).length == chat.session.length
    chat.save(file)
    with pytest.raises(MaverickError, match="another model"):
        load(scout_mini, context=512).load_chat(file)
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadCheckpoint):
        m.load_chat(file)
    file.write_bytes(data[:-9])
    with pytest.raises(BadCheckpoint):
        m.load_chat(file)


def test_a_failed_save_leaves_the_old_file(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "chat"
    chat.save(file)
    before = file.read_bytes()
    chat.messages[0]["content"] = {1, 2}  # no JSON
    with pytest.raises(UsageError, match="cannot keep"):
        chat.save(file)
    assert file.read_bytes() == before
    with pytest.raises(MaverickError):
        chat.model.chat().save(tmp_path / "no such folder" / "chat")


def test_a_document_is_read_once(maverick: Maverick, tmp_path: Path) -> None:
    document = "The quick brown fox jumps over the lazy dog. " * 20
    session = maverick.session()
    first = maverick.generate(document + "Who jumps?", session=session, **GREEDY)
    session.save(tmp_path / "kv")
    loaded = maverick.load_session(tmp_path / "kv")
    reply = maverick.generate(document + "Over whom?", session=loaded, **GREEDY)
    assert reply.stats.cached_tokens > first.stats.prompt_tokens * 0.8
    assert reply.text == maverick.generate(document + "Over whom?", **GREEDY).text


def test_a_changed_picture_in_a_loaded_session(maverick: Maverick, tmp_path: Path) -> None:
    session = maverick.session()
    red, blue = (Image.new("RGB", (56, 56), colour) for colour in ("red", "blue"))
    maverick.generate("What is this?", images=[red], session=session, max_tokens=1)
    session.save(tmp_path / "kv")
    same = maverick.generate(
        "What is this?", images=[red], session=maverick.load_session(tmp_path / "kv"), **GREEDY
    )
    other = maverick.generate(
        "What is this?", images=[blue], session=maverick.load_session(tmp_path / "kv"), **GREEDY
    )
    assert same.stats.cached_tokens > other.stats.cached_tokens
    assert other.text == maverick.generate("What is this?", images=[blue], **GREEDY).text


def test_stop_strings_and_the_tokens_kept(maverick: Maverick) -> None:
    """What the stop string cut off is no part of the conversation."""
    whole = maverick.generate("Count", temperature=0, max_tokens=40).text
    chat = maverick.chat(temperature=0, max_tokens=40, stop=(whole[8:11],))
    assert chat.send("Count").text == whole[: whole.index(whole[8:11])]
    reply = chat.send("On")
    plain = [{k: v for k, v in m.items() if k != "token_ids"} for m in chat.messages[:-1]]
    wanted = maverick.generate(plain, temperature=0, max_tokens=40, stop=(whole[8:11],))
    assert reply.text == wanted.text


def test_a_broken_off_turn_can_be_gone_on_from(maverick: Maverick) -> None:
    chat = maverick.chat(temperature=0, max_tokens=30)
    stream = chat.stream("Tell me a story")
    while not isinstance(event := next(stream), Token) or not event.text:
        pass
    stream.close()
    reply = chat.send("Go on")
    assert reply.stats.cached_tokens > 0
    assert reply.text == maverick.generate(chat.messages[:-1], temperature=0, max_tokens=30).text


def test_a_fork_in_the_middle_of_an_answer_goes_its_own_way(maverick: Maverick) -> None:
    chat = maverick.chat(**GREEDY)
    stream = chat.stream("Tell me a story")
    while not isinstance(event := next(stream), Token) or not event.text:
        pass
    fork = chat.fork()
    said, ids = fork.messages[-1]["content"], list(fork.messages[-1]["token_ids"])
    rest = [event.text for event in stream if isinstance(event, Token)]
    assert any(rest)
    assert (fork.messages[-1]["content"], fork.messages[-1]["token_ids"]) == (said, ids)
    assert fork.send("Go on").text == fresh(fork)


def test_a_turn_is_not_taken_after_another_one(maverick: Maverick) -> None:
    """Its prompt does not hold it: one of the two would be lost."""
    chat = maverick.chat(**GREEDY)
    first, second = chat.stream("One"), chat.stream("Two")
    list(second)
    with pytest.raises(UsageError, match="ask again"):
        list(first)
    assert [m["content"] for m in chat.messages if m["role"] == "user"] == ["Two"]
    begun = chat.stream("Three")
    assert isinstance(next(begun), Prefill)
    chat.rewind()
    with pytest.raises(UsageError, match="ask again"):
        list(begun)
    assert chat.messages == []


def test_cancelled_before_there_is_an_answer(chat: Chat) -> None:
    """The conversation is as before, also where an old answer was to be replaced."""
    before, asked = list(chat.messages), 0

    def soon() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    chat.session = chat.model.session()  # or there would be nothing to compute
    for stream in (
        chat.stream_regenerate(should_stop=soon),
        chat.stream_edit("Other words", should_stop=soon),
        chat.stream("And now?", should_stop=soon),
    ):
        asked = 0
        last = list(stream)[-1]
        assert isinstance(last, Finished)
        assert (last.reason, last.stats.new_tokens) == (FinishReason.CANCELLED, 0)
        assert chat.messages == before
    assert chat.send("And now?").text == fresh(chat)


def test_editing_keeps_pictures_in_any_spelling(chat: Chat) -> None:
    shown = {"type": "image_url", "image_url": {"url": str(PICTURE)}}
    question = [{"type": "text", "text": "And what is this?"}, shown]
    chat.messages[-2] = {"role": "user", "content": question}
    chat.edit("And what are these?")
    assert chat.messages[-2]["content"] == [shown, {"type": "text", "text": "And what are these?"}]
    assert chat.messages[-1]["content"] == fresh(chat)


def test_results_of_tools_may_have_any_keys(maverick: Maverick, tmp_path: Path) -> None:
    tool = {"name": "find", "parameters": {"properties": {"what": {"type": "string"}}}}
    chat = maverick.chat(tools=[tool], **GREEDY)
    result = {"picture": 0, "object": {"picture": {"object": None}}, "grid": [{"picture": "x"}]}
    call = {"id": "a", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    chat.messages += [
        {"role": "user", "content": "Find it"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": result},
    ]
    chat.save(tmp_path / "chat")
    assert maverick.load_chat(tmp_path / "chat").messages == chat.messages
