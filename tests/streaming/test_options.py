"""What a user can say about streamed experts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.streaming.options import ExpertOptions, Mode, parse_bytes


@pytest.mark.parametrize(
    ("said", "bytes"),
    [
        (None, None),
        ("auto", None),
        (1, 1),
        (90 * 10**9, 90 * 10**9),
        ("90GB", 90 * 10**9),
        (" 90 gb ", 90 * 10**9),
        ("90G", 90 * 10**9),
        ("84GiB", 84 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("500MB", 500 * 10**6),
        ("500m", 500 * 10**6),
        ("7MiB", 7 * 2**20),
        ("1.001GB", 1_001_000_000),  # not a byte less, as floating point has it
        ("0.000001MB", 1),
    ],
)
def test_sizes(said: str | int | None, bytes: int | None) -> None:
    assert parse_bytes(said) == bytes


@pytest.mark.parametrize(
    "said",
    [
        "", "90", "GB", "-90GB", "0GB", "0", 0, -1, True, False, 1.5, "1e3GB", "90PB",
        "9gi", "90 G B", "٩٠GB", "90GB\n90GB", "inf GB", "nan GB", "12345678GB", "1,5GB",
        "Auto!", [], {}, b"90GB",
    ],
)  # fmt: skip
def test_what_is_no_size(said: object) -> None:
    with pytest.raises(UsageError, match="is not a size; give one such as 90GB"):
        parse_bytes(said)  # type: ignore[arg-type]


def test_defaults() -> None:
    assert ExpertOptions.of() == ExpertOptions()
    assert ExpertOptions().mode is Mode.AUTO
    assert not ExpertOptions().wants_streaming


@pytest.mark.parametrize(
    "options",
    [
        ExpertOptions.of("stream"),
        ExpertOptions.of(memory="5GB"),
        ExpertOptions.of(look_ahead=True),
        ExpertOptions.of(file_cache=True),
        ExpertOptions.of(route_log="routes"),
    ],
)
def test_whatever_is_said_about_streaming_asks_for_it(options: ExpertOptions) -> None:
    assert options.wants_streaming


def test_what_does_not_ask_for_streaming() -> None:
    assert not ExpertOptions.of("auto", "auto").wants_streaming
    assert not ExpertOptions.of("resident", "auto", False, False, None).wants_streaming


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"memory": "5GB"}, "memory for experts"),
        ({"look_ahead": True}, "a look-ahead"),
        ({"file_cache": True}, "a file cache"),
        ({"route_log": "x"}, "a route log"),
    ],
)
def test_resident_experts_have_nothing_of_it(said: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=f"{why} is about streamed experts"):
        ExpertOptions.of("resident", **said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"mode": "disk"}, "experts 'disk' is not possible; use one of auto, stream, resident"),
        ({"mode": None}, "experts None is not possible"),
        ({"mode": ["auto"]}, "is not possible"),
        ({"memory": "much"}, "expert memory 'much'"),
        ({"look_ahead": 1}, "look_ahead 1 is not True or False"),
        ({"file_cache": "yes"}, "file_cache 'yes' is not True or False"),
        ({"route_log": 5}, "5 is not a path"),
        ({"route_log": "a\0b"}, "is not a path"),
    ],
)
def test_what_makes_no_sense(said: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ExpertOptions.of(**said)  # type: ignore[arg-type]


def test_a_route_log_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert ExpertOptions.of(route_log="~/routes").route_log == Path("/home/somebody/routes")
    # Where nobody of that name is, it is a name like another.
    unknown = "~nobody-of-this-name/routes"
    assert ExpertOptions.of(route_log=unknown).route_log == Path(unknown)


@pytest.mark.parametrize(
    "options",
    [
        ExpertOptions(),
        ExpertOptions(Mode.RESIDENT),
        ExpertOptions(Mode.STREAM, 123_456_789, True, True, Path("/tmp/routes")),
    ],
)
def test_there_and_back_as_json(options: ExpertOptions) -> None:
    assert ExpertOptions.of(**json.loads(json.dumps(options.fields()))) == options


@pytest.mark.parametrize(
    ("given", "nbytes"),
    [(90e9, 90 * 10**9), ("98.3 kB", 98300), ("0.5TB", 5 * 10**11)],
)
def test_sizes_as_they_are_printed_and_as_python_has_them(given: Any, nbytes: int) -> None:
    assert parse_bytes(given) == nbytes
