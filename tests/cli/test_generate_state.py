"""`mlx-maverick generate` with KV cache options, prompt caches, schemas, tools, memory."""

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlx_maverick import guard, replying
from mlx_maverick.choosing import Chooser
from mlx_maverick.cli.main import main
from mlx_maverick.errors import MaverickError
from mlx_maverick.events import FinishReason
from mlx_maverick.maverick import Maverick
from mlx_maverick.pressure import Pressure, Reading

from ..golden import REFERENCE

PICTURE = str(REFERENCE / "maverick-mini/golden/images/03_200x130_RGB.png")
DOCUMENT = "The quick brown fox jumps over the lazy dog. " * 12


def run(capsys: pytest.CaptureFixture[str], model: Path, *args: object) -> tuple[str, str]:
    """What a successful run says on stdout and stderr."""
    words = ["generate", "--model", model, "--temp", "0", "-m", "12", *args]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def refused(capsys: pytest.CaptureFixture[str], model: Path, *args: object) -> tuple[int, str]:
    words = ["generate", "--model", model, "--temp", "0", "-m", "12", *args]
    code = main([str(word) for word in words])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return code, said


def test_a_prompt_cache(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "document.safetensors"
    stats = []
    for question in ("Who jumps?", "Over whom?"):
        prompt = DOCUMENT + question
        wanted, _ = run(capsys, maverick_mini, "-p", prompt)
        said, _ = run(capsys, maverick_mini, "-p", prompt, "--prompt-cache", file, "--json")
        reply = json.loads(said)
        assert reply["text"] + "\n" == wanted
        stats.append(reply["stats"])
    assert stats[0]["cached_tokens"] == 0
    assert stats[1]["cached_tokens"] > stats[1]["prompt_tokens"] * 0.7
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    _, said = run(capsys, maverick_mini, "-p", DOCUMENT + "x", "--prompt-cache", file, "-v")
    assert "from the cache)" in said


def test_a_prompt_cache_that_is_of_no_use(
    maverick_mini: Path, scout_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kv"
    run(capsys, maverick_mini, "-p", DOCUMENT, "--prompt-cache", file)
    before = file.read_bytes()
    ask = ["-p", DOCUMENT, "--prompt-cache", file]
    code, said = refused(capsys, scout_mini, *ask)
    assert (code, "another model" in said) == (1, True)
    code, said = refused(capsys, maverick_mini, *ask, "--max-kv-size", "64")
    assert (code, "--max-kv-size" in said) == (2, True)
    assert file.read_bytes() == before
    file.write_bytes(before[:-1])
    code, said = refused(capsys, maverick_mini, *ask)
    assert code == 1
    file.write_text("no cache at all")
    code, said = refused(capsys, maverick_mini, *ask)
    assert code == 1
    assert file.read_text() == "no cache at all"
    code, said = refused(capsys, maverick_mini, "-p", "x", "--prompt-cache", tmp_path / "no" / "kv")
    assert code == 3


def test_a_size_that_is_large_enough_changes_nothing(
    maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, _ = run(capsys, maverick_mini, "-p", DOCUMENT)
    assert run(capsys, maverick_mini, "-p", DOCUMENT, "--max-kv-size", "4096")[0] == usual
    rotated, _ = run(capsys, maverick_mini, "-p", DOCUMENT, "--max-kv-size", "32")
    assert rotated != usual


def test_a_quantised_cache(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual, _ = run(capsys, maverick_mini, "-p", "Hi")
    eight, _ = run(capsys, maverick_mini, "-p", "Hi", "--kv-bits", "8")
    later, _ = run(
        capsys, maverick_mini, "-p", "Hi", "--kv-bits", "4", "--quantized-kv-start", "500"
    )
    assert usual[:4] == eight[:4]
    assert later == usual
    code, _ = refused(capsys, maverick_mini, "-p", "x", "--quantized-kv-start", "9")
    assert code == 2


SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["fox", "dog"]}, "legs": {"type": "integer", "maximum": 99}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("picture", [[], ["-i", PICTURE]])
def test_a_json_schema(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    picture: list[str],
) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for seed in range(4):
        how = ["--json-schema", file, "--temp", "2", "-m", "400", "--seed", seed, *picture]
        said, _ = run(capsys, maverick_mini, "-p", "Which?", *how, "--json")
        reply = json.loads(said)
        assert reply["finish_reason"] == "stop"
        jsonschema.validate(json.loads(reply["text"]), SCHEMA)


def test_json_that_was_cut_off_says_so(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    _, said = run(capsys, maverick_mini, "-p", "x", "--json-schema", file, "-m", "2")
    assert said == "the JSON is not complete: cut off (length)\n"


@pytest.mark.parametrize(
    ("text", "code"), [("{", 2), ('{"type": "nonsense"}', 2), ("\udcff", 2), (None, 3)]
)
@pytest.mark.parametrize("option", ["--json-schema", "--tools"])
def test_broken_files(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    text: str | None,
    code: int,
) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    assert refused(capsys, maverick_mini, "-p", "x", option, file)[0] == code


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def test_tools(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS))
    ask = ["-p", "Is it raining in Oslo?", "--tools", file, "-i", PICTURE]
    said, _ = run(capsys, maverick_mini, *ask, "--json")
    assert json.loads(said)["tool_calls"] == []
    speak(monkeypatch, 'Let me see.\n[weather(city="Oslo"), weather(city="Bergen")]')
    said, problem = run(capsys, maverick_mini, *ask, "-m", "200")
    assert [line for line in said.splitlines() if line] == [
        "Let me see.",
        '{"name": "weather", "arguments": {"city": "Oslo"}}',
        '{"name": "weather", "arguments": {"city": "Bergen"}}',
    ]
    assert problem == ""
    speak(monkeypatch, '[weather(city="Oslo"]')
    said, problem = run(capsys, maverick_mini, *ask, "-m", "200")
    assert said == '[weather(city="Oslo"]\n'
    assert problem.startswith("no tool call: weather: ")


def speak(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make the model say something, token by token, and end its turn."""

    class Says:
        def __init__(self, prompt: Any) -> None:
            ids = prompt.tokenizer.encode(text, add_special_tokens=False)
            self._left = [*ids, min(prompt.stop_ids)]

        def mask(self, logits: Any) -> Any:
            import mlx.core as mx

            return mx.where(mx.arange(logits.shape[-1]) == self._left[0], logits, -mx.inf)

        def accept(self, id: int) -> None:
            assert id == self._left.pop(0)

    def make(*args: Any, **kwargs: Any) -> Any:
        return Chooser(*args, **{**kwargs, "constraint": Says(PROMPT[0])})

    monkeypatch.setattr(replying, "Chooser", make)


PROMPT: list[Any] = []


@pytest.fixture(autouse=True)
def _prompt(maverick: Maverick) -> None:
    PROMPT[:] = [maverick.prompt]


def test_log_probabilities(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, _ = run(capsys, maverick_mini, "-p", "Hi", "--json", "--logprobs", "2")
    tokens = json.loads(said)["logprobs"]
    assert len(tokens) == 12
    assert all(t["likely"][0]["id"] == t["id"] and t["logprob"] < 0 for t in tokens)
    assert refused(capsys, maverick_mini, "-p", "Hi", "--logprobs", "2")[0] == 2


def test_the_end_of_memory(
    maverick_mini: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text so far is there, and the exit code says why there is no more."""
    count = 0

    def read() -> Reading:
        nonlocal count
        count += 1
        pressed = Pressure.CRITICAL if count > 8 else Pressure.NORMAL
        return Reading(total=64 * 10**9, used=0, available=10**9, swap_used=0, pressure=pressed)

    def watch(**how: Any) -> guard.Guard:
        return guard.Guard(read=read, every=0, **how)

    monkeypatch.setattr(replying, "Guard", watch)
    words = ["generate", "--model", str(maverick_mini), "--temp", "0", "-p", "Hi", "-m", "500"]
    assert main(words) == 4
    said = capsys.readouterr()
    assert said.out
    assert said.err.count("\n") == 1
    assert "out of memory: 1.0 GB of 64.0 GB available" in said.err
    assert FinishReason.MEMORY == "memory"


def test_a_prompt_cache_is_looked_at_before_the_weights(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "kv"
    run(capsys, maverick_mini, "-p", DOCUMENT, "--prompt-cache", file)
    monkeypatch.setattr("mlx_maverick.loading.load_model", lambda *a: pytest.fail("was read"))
    ask = ["-p", DOCUMENT, "--prompt-cache", file]
    assert refused(capsys, maverick_mini, *ask, "--max-kv-size", "64")[0] == 2
    file.write_text("no cache at all")
    assert refused(capsys, maverick_mini, *ask)[0] == 1


def test_a_prompt_cache_is_written_when_much_is_new(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gigabytes are not written for a short question about a document that is there."""
    file = tmp_path / "kv"
    written = []
    for prompt in (DOCUMENT + "Who?", DOCUMENT + "Whom?", "x" * 400, "x" * 400 + DOCUMENT):
        run(capsys, maverick_mini, "-p", prompt, "--prompt-cache", file)
        written.append(file.stat().st_ino)
    assert [a == b for a, b in itertools.pairwise(written)] == [True, False, False]


def test_a_cache_that_cannot_be_written_after_an_error(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are said, and the exit code is that of what came first."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise MaverickError("the disk is full")

    def interrupted(*args: Any) -> str:
        raise KeyboardInterrupt("interrupted")

    monkeypatch.setattr("mlx_maverick.session.Session.save", full)
    monkeypatch.setattr("mlx_maverick.cli.generate.summary", interrupted)
    words = ["generate", "--model", str(maverick_mini), "-p", "Hi", "-m", "3", "-v"]
    assert main([*words, "--prompt-cache", str(tmp_path / "kv")]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "mlx-maverick: the disk is full",
        "mlx-maverick: interrupted",
    ]
