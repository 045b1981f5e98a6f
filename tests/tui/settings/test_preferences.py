"""config.toml: what is read, what is refused, and that changing it harms nothing."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.errors import MaverickError, UsageError
from mlx_maverick.kv import KVOptions
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.settings.edit import changed
from mlx_maverick.tui.settings.file import config_file
from mlx_maverick.tui.settings.preferences import (
    SETTINGS,
    Preferences,
    check_theme,
    remember_theme,
    save,
)
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.settings.system_prompt import RECOMMENDED

BY_HAND = """\
# My settings.

temperature = 0.3  # I like it cool
seed = 7           # for the demo
system = '''
Be brief.
'''  # and kind
# top_p = 0.5

# Keys as in my editor:
[keys]
chats = "ctrl+y"  # ctrl+l clears
"""

CHANGED = """\
# My settings.

temperature = 0.5  # I like it cool
top_p = 0.25
# for the demo
# and kind
# top_p = 0.5

# Keys as in my editor:
[keys]
chats = "ctrl+y"  # ctrl+l clears
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_a_file_is_read(path: Path) -> None:
    path.write_text(BY_HAND)
    preferences = Preferences.read(path)
    assert preferences == Preferences(
        system="Be brief.\n", temperature=0.3, seed=7, keys={"chats": "ctrl+y"}
    )
    assert preferences.place() == {"system": "Be brief.\n", "temperature": 0.3, "seed": 7}
    assert (preferences.thumbnails, preferences.theme) == ("auto", None)


def test_without_a_file_nothing_is_preferred(path: Path) -> None:
    assert Preferences.read(path) == Preferences()
    assert Settings.merged(Preferences().place()) == Settings()


def test_it_is_where_a_person_would_miss_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path))
    assert config_file() == tmp_path / "data" / "config.toml"


@pytest.mark.parametrize(("text", "about"), [
    ("temperatur = 1", "temperatur is no setting; did you mean temperature?"),
    ("zzz = 1", "zzz is no setting; There are model, system"),
    ("temperature = 700", "toml: temperature 700 is not a number from 0 to 100"),
    ("temperature = 1979-05-27", "temperature"), ("top_p = nan", "top_p nan"),
    ("a = 1\nb = = 2", "line 2"),
    ("seed = 1\nseed = 2\n", "line 2"),
    ("kv_bits = 3", "kv_bits: a KV cache of 3 bits"), ("context = 1", "context 1"),
    ("model = 5", "model 5 is not text"), ("model = ''", "model is empty"),
    ("thumbnails = 'on'", "thumbnails 'on' is not one of auto, blocks, off"),
    ("theme = 5", "theme 5"), ("keys = 'vim'", "keys is not a table"),
    ("[keys]\nsend = 5", "keys.send 5"), ("[sampling]\ntemperature = 1", "sampling is no setting"),
    ("top_k = 5", "top_k is no setting; did you mean top_p?"),
])  # fmt: skip
def test_what_is_wrong_is_named(path: Path, text: str, about: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        Preferences.read(path)
    assert about in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    # And nothing is written to such a file.
    with pytest.raises(UsageError):
        remember_theme(path, "nord")
    assert path.read_text() == text


def test_what_is_no_text_is_named(path: Path) -> None:
    path.write_bytes(b"system = '\xff'")
    with pytest.raises(UsageError, match="byte 10 is not UTF-8"):
        Preferences.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(MaverickError, match="cannot be read"):
        Preferences.read(path)


def test_every_key_is_read_and_saved(path: Path) -> None:
    """So that a new one is not forgotten."""
    values: dict[str, Any] = {
        "model": "~/models/m", "system": "Be\nbrief.", "context": 4096, "kv_bits": 8,
        "temperature": 0.0, "top_p": 0.5, "min_p": 0, "max_tokens": 9, "seed": 0,
        "theme": "nord", "thumbnails": "off",
    }  # fmt: skip
    save(path, values)
    assert Preferences.read(path) == Preferences(**values)
    assert path.stat().st_mode & 0o777 == 0o600
    settings = Settings.merged(Preferences.read(path).place())
    assert settings == Settings("~/models/m", "Be\nbrief.", 4096, KVOptions(8), sampling=Sampling(
        temperature=0, top_p=0.5, min_p=0, max_tokens=9, seed=0))  # fmt: skip


def test_comments_and_layout_stay(path: Path) -> None:
    path.write_text(BY_HAND)
    save(path, {"temperature": 0.5, "seed": None, "top_p": 0.25, "system": None})
    assert path.read_text() == CHANGED


@pytest.mark.parametrize(("before", "after"), [
    ("", "seed = 1\n"),
    ("# mine\n", "# mine\nseed = 1\n"),
    ("# mine", "# mine\nseed = 1\n"),
    ("min_p = 0", "min_p = 0\nseed = 1\n"),
    ("min_p = 0\r\n", "min_p = 0\r\nseed = 1\r\n"),
    ("# the keys\n[keys]\n", "seed = 1\n# the keys\n[keys]\n"),
    ("# mine\n\n# the keys\n[keys]\n", "# mine\n\nseed = 1\n# the keys\n[keys]\n"),
    ("min_p = 0\n\n# the keys\n[keys]\n", "min_p = 0\nseed = 1\n\n# the keys\n[keys]\n"),
    ("system = '''\n[keys]\n'''\nkeys.send = 'f5'\n",
     "system = '''\n[keys]\n'''\nkeys.send = 'f5'\nseed = 1\n"),
])  # fmt: skip
def test_a_new_key_comes_below_the_others_and_in_no_table(before: str, after: str) -> None:
    assert changed(before, {"seed": 1}) == after


names = st.sampled_from(["theme", "system", "model"])
lines = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
comments = lines.map(lambda t: "# " + "".join(c for c in t if c == "\t" or c.isprintable()))
values = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\n"\\\r\x1b'))

WRITTEN = {
    "model": '"m"', "system": "'''\n[keys]\n# no comment\nx = 1\n'''", "context": "4096",
    "kv_bits": "8", "max_tokens": "5", "seed": "1_000",
}  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file as a person writes it: keys, comments behind and between, tables."""
    made = draw(st.lists(comments | st.just(""), max_size=2))
    for key in draw(st.lists(st.sampled_from(SETTINGS), unique=True, max_size=5)):
        value = WRITTEN.get(key, "0.5")
        behind = draw(st.just("") | comments.map(lambda c: "  " + c))
        made += [f"{key} = {value}{behind}", *draw(st.lists(comments | st.just(""), max_size=2))]
    if draw(st.booleans()):
        made += ["[keys]  # my keys", "chats = 'f5'", *draw(st.lists(comments, max_size=2))]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(made) + draw(st.sampled_from(["", end]))


changes = st.fixed_dictionaries({}, optional={
    "model": st.none() | values.filter(str.strip), "system": st.none() | values, "theme": values,
    "context": st.none() | st.integers(2, 10**7), "kv_bits": st.sampled_from([None, 8, 4]),
    "temperature": st.none() | st.floats(0, 100), "top_p": st.none() | st.floats(0.001, 1),
    "seed": st.none() | st.integers(0, 2**63 - 1), "thumbnails": st.sampled_from(["off", "auto"]),
})  # fmt: skip


@settings(deadline=None)  # it waits for the disk
@given(files(), changes)
def test_comments_survive_any_change(
    tmp_path_factory: pytest.TempPathFactory, text: str, wanted: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "config.toml"
    path.write_bytes(text.encode())
    before = tomllib.loads(text)
    save(path, wanted)
    after = path.read_bytes().decode()
    assert tomllib.loads(after) == {
        key: value for key, value in (before | wanted).items() if value is not None
    }
    system = before.get("system", "")
    left = after
    for comment in [c for line in text.splitlines() if (c := _comment(line))]:
        if comment.rstrip() not in system:  # a line of the prompt is none
            assert comment.rstrip() in left
            left = left.replace(comment.rstrip(), "", 1)
    # All other keys are written as they were.
    for line in text.splitlines():
        key = line.partition(" =")[0]
        if key in before and key not in wanted and key != "system":
            assert line in after
    save(path, wanted)
    assert path.read_bytes().decode() == after


def _comment(line: str) -> str:
    return line[at:] if (at := line.find("#")) >= 0 else ""


def test_the_default_of_new_chats_becomes_what_was_chosen(path: Path) -> None:
    path.write_text(BY_HAND)
    chosen = Settings("m", RECOMMENDED, None, KVOptions(4, 100), sampling=Sampling(0.3, top_k=5))
    changes = Preferences.read(path).changes(chosen)
    assert changes == {"model": "m", "system": RECOMMENDED, "kv_bits": 4, "seed": None}
    save(path, changes)
    later = Settings.merged(Preferences.read(path).place())
    assert later == Settings("m", RECOMMENDED, None, KVOptions(4), sampling=Sampling(0.3))
    assert Preferences.read(path).changes(chosen) == {}


def test_a_model_is_found_from_anywhere_later(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "m").mkdir(parents=True)
    (tmp_path / "demo").mkdir()  # which holds no model
    monkeypatch.chdir(tmp_path)
    for model, kept in (("owner/m", str(tmp_path / "owner/m")), ("owner/n", "owner/n"),
                        ("~/m", "~/m"), ("a\0b", "a\0b"), ("demo", "demo")):  # fmt: skip
        assert Preferences().changes(Settings(model))["model"] == kept


def test_a_prompt_reads_in_the_file_as_it_is(path: Path) -> None:
    save(path, {"system": RECOMMENDED})
    assert f'system = """\n{RECOMMENDED}"""\n' == path.read_text()


@pytest.mark.parametrize("text", [
    'a\n"""\nb', '\n""""""\n', 'a\n"', 'say ""', '"""', "a\r\nb\r", "\n", "\\\n\\",
    "a\n\x1b[2J\x7f\t", "a \\\n  b", "'''\n", "日本\n\u2028\ufeff",
])  # fmt: skip
def test_any_prompt_comes_back_as_it_was(path: Path, text: str) -> None:
    for before in ("", "system = 'x'\n"):
        path.write_text(before)
        save(path, {"system": text})
        assert Preferences.read(path).place().get("system") == text


def test_values_that_are_wrong_are_not_written(path: Path) -> None:
    path.write_text(BY_HAND)
    for wrong in ({"temperature": 700}, {"temprature": 1}, {"thumbnails": "on"}, {"keys": "x"},
                  {"system": "\ud800"}):  # fmt: skip
        with pytest.raises(UsageError, match="config.toml: "):
            save(path, wrong)
    assert path.read_text() == BY_HAND


def test_a_linked_file_stays_linked_and_keeps_its_mode(tmp_path: Path, path: Path) -> None:
    """People keep such files with others of the kind, and link them."""
    kept = tmp_path / "dotfiles" / "maverick.toml"
    kept.parent.mkdir()
    kept.write_text(BY_HAND)
    kept.chmod(0o644)
    path.symlink_to(kept)
    remember_theme(path, "nord")
    assert path.is_symlink()
    assert 'theme = "nord"' in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in kept.parent.iterdir()] == ["maverick.toml"]


def test_a_file_that_cannot_be_replaced_is_left_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(BY_HAND)

    def full(file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MaverickError, match="cannot be written .No space left"):
        remember_theme(path, "nord")
    assert path.read_text() == BY_HAND
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_theme_is_named(path: Path) -> None:
    check_theme("nord", ["nord", "dracula"], path)
    with pytest.raises(UsageError, match="theme 'nrod' is unknown; did you mean nord"):
        check_theme("nrod", ["nord", "dracula"], path)
