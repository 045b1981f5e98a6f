"""How a conversion is shown: on a terminal, off one, to a script."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick import process
from mlx_maverick.cli import converting
from mlx_maverick.cli.converting import Report, duration
from mlx_maverick.convert.progress import Clock, Converted, Planned, Progress

GB = 10**9
PLANNED = Planned(
    source="meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    commit="0123456789abcdef0123456789abcdef01234567",
    form="BF16",
    recipe="e4r6",
    folder=Path("out/model.partial"),
    to_read=800 * GB,
    done=0,
    nbytes=230 * GB,
    files=("config.json", "tokenizer.json"),
    kept=0,
    memory=GB,
    weights=400 * GB,
    layers=48,
)
CONVERTED = Converted(
    Path("out/model"), "e4r6", 230 * GB, ("config.json", "tokenizer.json"), 400 * GB, 1.0,
    Clock().stages,
)  # fmt: skip
LAYER = "language_model.model.layers.{}.feed_forward.experts.gate_up_proj (expert 3)"


class Time:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(converting, "monotonic", clock)
    monkeypatch.setattr(process, "memory", lambda: 1_500_000_000)
    return clock


def converting_layer(done: int, layer: int = 7) -> Progress:
    return Progress("converting", done * GB, 800 * GB, LAYER.format(layer))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


def test_off_a_terminal_a_line_now_and_then(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.show(PLANNED)
    for _ in range(95):  # seconds
        time.now += 1
        report.show(converting_layer(int(time.now - 1000)))
    report.show(CONVERTED)
    report.close()
    first, *rest, last = lines(capsys)
    assert first == (
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct at 0123456789ab, BF16: 800.0 GB to read, "
        "e4r6 makes 230.0 GB, in at most 1.0 GB of memory"
    )
    assert rest == [
        "converting 4%  30.0/800.0 GB  layer 7/48  1.0 GB/s  13 min left  RAM 1.5 GB",
        "converting 8%  60.0/800.0 GB  layer 7/48  1.0 GB/s  12 min left  RAM 1.5 GB",
        "converting 11%  90.0/800.0 GB  layer 7/48  1.0 GB/s  12 min left  RAM 1.5 GB",
    ]
    assert last == "out/model: 230.0 GB, e4r6, 2 min"


def test_on_a_terminal_one_line_is_rewritten(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    report = Report()
    report.show(PLANNED)
    for done in (8, 16):
        time.now += 4
        report.show(converting_layer(done))
    report.close()
    before, first, second, after = terminal.getvalue().split("\r\x1b[K")
    assert before.endswith("in at most 1.0 GB of memory\n")
    assert first == "converting 1%  8.0/800.0 GB  layer 7/48  RAM 1.5 GB"
    assert second == "converting 2%  16.0/800.0 GB  layer 7/48  2.0 GB/s  7 min left  RAM 1.5 GB"
    assert after == ""


def test_what_was_done_before_is_said_and_counts_in_no_rate(
    time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(as_json=True)
    report.show(Planned(**{**PLANNED.__dict__, "done": 400 * GB}))
    for done in (401, 402):
        time.now += 1
        report.show(converting_layer(done))
    planned, *_, progress = events(capsys)
    assert planned["done"] == 400 * GB
    assert progress["rate"] == GB
    assert progress["eta"] == 398
    report = Report()
    report.show(Planned(**{**PLANNED.__dict__, "done": 200 * GB, "commit": None}))
    said = lines(capsys)
    assert said[0].startswith("meta-llama/Llama-4-Maverick-17B-128E-Instruct, BF16: ")
    assert said[1] == "out/model.partial has 25% of it already; going on from there"


def test_the_rate_is_of_late(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    """Slow at first, fast now: a minute later the beginning does not count any more."""
    report = Report(as_json=True)
    done = 0
    for step in [1] * 60 + [3] * 60:
        time.now += 1
        done += step
        report.show(converting_layer(done))
    rates = [event["rate"] for event in events(capsys)]
    assert rates[0] is None
    assert rates[50] == GB
    assert GB < rates[75] < 3 * GB
    assert rates[-1] == 3 * GB


def test_a_rate_of_pieces_that_take_longer_than_the_window(
    time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slow network: still no more is said than what was seen."""
    report = Report()
    report.show(PLANNED)
    for done in range(1, 4):
        time.now += 50
        report.show(converting_layer(done))
    assert [" 20.0 MB/s  11.1 h left" in line for line in lines(capsys)[1:]] == [False, True, True]


def test_each_stage_has_its_own_rate(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    for done in (300, 799):
        time.now += 1
        report.show(converting_layer(done))
    for done in (0, 10, 20):
        time.now += 1
        report.show(Progress("hashing", done * GB, 230 * GB, "model-00001-of-00045.safetensors"))
    progress = events(capsys)
    assert [event["rate"] for event in progress[2:]] == [None, 10 * GB, 10 * GB]
    assert progress[-1]["eta"] == 21
    assert progress[-1]["layer"] is None


def test_layers_are_of_the_text_model(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    for what in (
        LAYER.format(0),
        "model.layers.47.self_attn.q_proj.weight",
        "vision_model.model.layers.3.mlp.fc1.weight",
        "language_model.lm_head.weight",
    ):
        time.now += 1
        report.show(Progress("converting", 1, 2, what))
    assert [event["layer"] for event in events(capsys)] == [0, 47, None, None]


def test_lines_for_scripts(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys are an interface: what is added here is documented, nothing is renamed."""
    report = Report(as_json=True)
    report.show(PLANNED)
    for n in range(41):  # a tenth of a second each
        time.now += 0.1
        report.show(converting_layer(20 * n))
    report.show(CONVERTED)
    planned, *progress, converted = events(capsys)
    assert planned == {
        "event": "planned", "source": PLANNED.source, "commit": PLANNED.commit, "form": "BF16",
        "recipe": "e4r6", "folder": "out/model.partial", "to_read": 800 * GB, "done": 0,
        "nbytes": 230 * GB, "files": ["config.json", "tokenizer.json"], "kept": 0,
        "memory": GB, "weights": 400 * GB, "layers": 48,
    }  # fmt: skip
    assert 3 <= len(progress) <= 5
    assert progress[-1]["done"] == progress[-1]["total"] == 800 * GB
    assert progress[0].keys() == {
        "event", "stage", "done", "total", "what", "waited", "layer", "memory", "rate", "eta"
    }  # fmt: skip
    assert progress[0]["event"] == "progress"
    assert progress[0]["memory"] == 1_500_000_000
    assert converted.pop("stages").keys() == {
        "reading", "quantising", "writing", "waiting_for_reads", "waiting_for_writes"
    }  # fmt: skip
    assert converted == {
        "event": "converted", "folder": "out/model", "recipe": "e4r6", "nbytes": 230 * GB,
        "bytes": 230 * GB, "files": ["config.json", "tokenizer.json"], "weights": 400 * GB,
        "seconds": 4.1,
    }  # fmt: skip


def test_names_cannot_control_the_terminal(time: Time, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.show(Planned(**{**PLANNED.__dict__, "source": "a\x1b[2J\nb"}))
    time.now += 31
    report.show(Progress("hashing", 1, 2, "a\x1b[2J\nb"))
    said = lines(capsys)
    assert len(said) == 2
    assert "\x1b" not in "".join(said)


def test_nothing_to_do_is_no_division_by_zero(
    time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    time.now += 31
    report.show(Progress("hashing", 0, 0, "x"))
    assert lines(capsys)[0].startswith("hashing 0%  0.0/0.0 kB")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (1800, "30 min"), (5400, "1.5 h"),
     (86_400, "24.0 h")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_terminal_that_goes_away_is_an_error_of_its_own(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not swallowed here: the conversion is to end tidily."""

    class Closed(io.StringIO):
        write: Callable[..., int] = lambda self, text: self.fail()

        def fail(self) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(BrokenPipeError):
        Report().show(PLANNED)


def test_the_whole_line_fits_into_80_columns(
    time: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    report.show(PLANNED)
    report.show(Progress("converting", 400 * GB, 803 * GB, LAYER.format(42)))
    time.now += 31
    report.show(Progress("converting", 431 * GB - 10**9 * 6, 803 * GB, LAYER.format(42)))
    (line,) = lines(capsys)[1:]
    assert line == (
        "converting 53%  425.0/803.0 GB  layer 42/48  806.5 MB/s  8 min left  RAM 1.5 GB"
    )
    assert len(line) <= 79
