"""The demo's model folder: what every tool needs beside the weights."""

import math
from pathlib import Path
from random import Random

import pytest

from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import published
from mlx_maverick.demo import folder
from mlx_maverick.demo.scenes import make_scene
from mlx_maverick.demo.world import conversation
from mlx_maverick.prompt import Prompt


@pytest.fixture(scope="module")
def prompt(made: Path) -> Prompt:
    return Prompt.from_folder(made)


def test_it_is_the_same_every_time(made: Path, tmp_path: Path) -> None:
    folder.write(tmp_path)
    names = sorted(path.name for path in made.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (made / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_it_is_maverick_in_small(made: Path) -> None:
    config = ModelConfig.from_folder(made)
    assert sum(map(math.prod, published.shapes(config).values())) < 4_000_000  # 8 MB in bf16
    text = config.text
    assert text.moe_layers == (False, True) * 4
    assert text.rope_layers == text.chunked_layers == (True, True, True, False) * 2
    assert text.attention_chunk_size == text.floor_scale == 128
    assert not text.use_qk_norm
    assert config.vision is not None
    assert config.vision.tokens_per_tile == 4


def test_any_text_comes_back(prompt: Prompt) -> None:
    for text in ("What is in the picture?", "Ωμέγα, 你好, 🦙\n\n\tx = [1, 22]", "  a  b ", "é"):
        ids = prompt.plain_ids(text)
        assert max(ids) < folder.VOCABULARY
        assert prompt.decode(ids) == text


def test_digits_stand_alone_and_common_words_are_one_token(prompt: Prompt) -> None:
    assert len(prompt.plain_ids("1234")) == 4
    assert len(prompt.plain_ids("What is in the picture?")) == 6


def test_every_special_token_is_known(prompt: Prompt) -> None:
    assert prompt.special == {token: folder.token_id(token) for token in folder.SPECIAL}
    ids = {folder.token_id(t) for t in ("<|end_of_text|>", "<|eom|>", "<|eot|>")}
    assert prompt.stop_ids == ids


def shown(prompt: Prompt, *messages: dict[str, object], **options: object) -> str:
    encoded = prompt.encode(list(messages), **options)  # type: ignore[arg-type]
    return str(prompt.tokenizer.decode(encoded.ids))


def test_the_chat_template(prompt: Prompt) -> None:
    scene = make_scene(Random(1))
    picture = {"type": "image", "image": scene.picture.resize((50, 40))}
    text = shown(
        prompt,
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "A ring."},
        {"role": "user", "content": "Thanks!"},
    )
    start, end = "<|header_start|>", "<|header_end|>\n\n"
    assert text == (
        f"<|begin_of_text|>{start}system{end}Be brief.<|eot|>"
        f"{start}user{end}<|image_start|><|image|>{'<|patch|>' * 4}<|image_end|>"
        "What is this?<|eot|>"
        f"{start}assistant{end}A ring.<|eot|>{start}user{end}Thanks!<|eot|>{start}assistant{end}"
    )


def test_the_chat_template_shows_tools_calls_and_results(prompt: Prompt) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one
            b: the other
        """
        return a + b

    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 1, "b": 2}},
    }
    text = shown(
        prompt,
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": {"sum": 3}},
        tools=[add],
    )
    assert "Add two numbers." in text
    assert text.count("What is 1 + 2?") == 1
    assert '{"name": "add", "parameters": {"a": 1, "b": 2}}<|eot|>' in text
    assert 'ipython<|header_end|>\n\n{"sum": 3}<|eot|>' in text


def test_a_reply_in_the_history_is_what_was_sampled(prompt: Prompt) -> None:
    """Else the KV cache of the turn before could not be used, and training would differ."""
    for number in range(60):
        messages = conversation("test", number).messages
        whole = prompt.encode(messages[:-1]).ids
        for at, message in enumerate(messages[:-1]):
            if message["role"] == "assistant":
                before = prompt.encode(messages[:at]).ids
                sampled = [*before, *prompt.plain_ids(message["content"])]
                assert whole[: len(sampled) + 1] == [*sampled, folder.token_id("<|eot|>")]
