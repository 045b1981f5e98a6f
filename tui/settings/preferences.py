"""What a person prefers in all chats: config.toml, checked.

Knows nothing of chats and widgets. Whether its keys are keys is `keys.keymap`'s to say, and
whether there is such a theme `check_theme`'s: both depend on the app.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ... import hub
from ...errors import MaverickError, UsageError
from .edit import Scalar, changed
from .file import parse, read, write
from .settings import Settings

THUMBNAILS = ("auto", "blocks", "off")
# Of chats; a chat may have others of its own.
SETTINGS = (
    "model", "system", "context", "kv_bits",
    "temperature", "top_p", "min_p", "max_tokens", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Preferences:
    """What config.toml says; None is what it does not say."""

    model: str | None = None
    system: str | None = None
    context: int | None = None  # tokens
    kv_bits: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    theme: str | None = None
    thumbnails: Literal["auto", "blocks", "off"] = "auto"
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    def read(path: Path) -> "Preferences":
        """Those of a file; without one, none. Raises UsageError naming the file, the line or
        key, and what is allowed, and MaverickError if the file cannot be read."""
        return Preferences.of(parse(read(path), path), path)

    @staticmethod
    def of(keys: Mapping[str, Any], path: Path) -> "Preferences":
        """Of the keys of a file; `path` is for messages."""
        for key, value in keys.items():
            try:
                _check(key, value)
            except MaverickError as e:
                said = str(e)
                named = said if said.startswith(key) else f"{key}: {said}"
                raise UsageError(f"{path}: {named}") from None
        values = dict(keys)
        if "keys" in values:
            values["keys"] = MappingProxyType(dict(values["keys"]))
        return Preferences(**values)

    def place(self) -> dict[str, Any]:
        """For `Settings.merged`."""
        return {n: v for n in SETTINGS if (v := getattr(self, n)) is not None}

    def changes(self, settings: Settings) -> dict[str, Scalar | None]:
        """What to `save` so that `settings` are those of new chats, as far as a file says
        them."""
        now, wanted = Settings.merged(self.place()).as_dict(), settings.as_dict()
        wanted["model"] = from_anywhere(settings.model)
        return {name: wanted[name] for name in SETTINGS if now[name] != wanted[name]}


def save(path: Path, changes: Mapping[str, Scalar | None]) -> None:
    """Change keys of the file, which begins with the first; None takes one away. Comments stay.

    Raises UsageError, as `Preferences.read` does, for a file or values that are wrong, and
    MaverickError if it cannot be written; then it is as it was.
    """
    text = read(path)
    Preferences.of(parse(text, path), path)  # what is wrong already is for its owner to correct
    if "keys" in changes:
        raise UsageError(f"{path}: keys are changed in an editor")
    try:
        new = changed(text, changes)
    except MaverickError as e:
        raise type(e)(f"{path}: {e}") from None
    Preferences.of(parse(new, path), path)
    if new != text:
        write(path, new)


def remember_theme(path: Path, name: str) -> None:
    """The theme that later chats begin with. Raises what `save` does."""
    save(path, {"theme": name})


def check_theme(name: str, known: Collection[str], path: Path) -> None:
    """Raises UsageError, naming the nearest, for a theme that the app does not have."""
    if name not in known:
        raise UsageError(f"{path}: theme {name!r} is unknown; {choose(name, known)}")


def choose(wrong: str, known: Collection[str]) -> str:
    """What to do instead of a word that is unknown."""
    near = get_close_matches(wrong, known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}There are {', '.join(known)}"


def from_anywhere(model: str | None) -> str | None:
    """A model's folder that is given from where the chat was started, as seen from anywhere."""
    if model is None or model.startswith("~") or hub.is_demo(model):
        return model
    try:
        return str(Path(model).absolute()) if Path(model).is_dir() else model
    except (OSError, ValueError):  # no name that a folder could have
        return model


KEYS = tuple(f.name for f in fields(Preferences))


def _check(key: str, value: object) -> None:
    if key in SETTINGS:
        Settings.merged({key: value})
        if key == "model" and not str(value).strip():
            raise UsageError("model is empty; leave it out")
    elif key == "theme":
        if not isinstance(value, str):
            raise UsageError(f"theme {value!r} is not the name of a theme")
    elif key == "thumbnails":
        if value not in THUMBNAILS:
            raise UsageError(f"thumbnails {value!r} is not one of {', '.join(THUMBNAILS)}")
    elif key == "keys":
        if not isinstance(value, Mapping):
            raise UsageError('keys is not a table; write [keys] and below it action = "key"')
        for action, pressed in value.items():
            if not isinstance(pressed, str):
                raise UsageError(f'keys.{action} {pressed!r} is not a key such as "ctrl+l"')
    else:
        raise UsageError(f"{key} is no setting; {choose(key, KEYS)}")
