"""A person's own keys, checked: for `App.set_keymap`.

Knows nothing of what the actions do. What a terminal cannot tell apart is one key here: enter
and ctrl+m, tab and ctrl+i.
"""

from collections.abc import Iterable, Mapping

from textual.binding import Binding, BindingType
from textual.keys import KEY_ALIASES, REPLACED_KEYS, Keys, key_to_character

from ...errors import UsageError
from .preferences import choose

MODIFIERS = ("alt", "ctrl", "hyper", "meta", "shift", "super")  # sorted, as Textual sends them
# As other programs and keyboards call them.
OTHER_NAMES = {
    "cmd": "super", "command": "super", "control": "ctrl", "opt": "alt", "option": "alt",
    "del": "delete", "esc": "escape", "ins": "insert", "page_down": "pagedown",
    "page_up": "pageup", "pgdn": "pagedown", "pgup": "pageup", "return": "enter",
}  # fmt: skip
_NAMED = {name for key in Keys if (name := key.value.rpartition("+")[2]).replace("_", "").isalnum()}
_SENT_AS = {alias: key for key, aliases in KEY_ALIASES.items() for alias in aliases}
NOTHING: Mapping[str, str] = {}


def described(bindings: Iterable[BindingType]) -> dict[str, str]:
    """What the bindings that have an id do, by id."""
    return {b.id: b.description for b in Binding.make_bindings(bindings) if b.id}


def defaults(bindings: Iterable[BindingType]) -> dict[str, str]:
    """Their keys, separated by commas, by id."""
    keys: dict[str, list[str]] = {}
    for binding in Binding.make_bindings(bindings):
        if binding.id:
            keys.setdefault(binding.id, []).append(binding.key)
    return {id: ",".join(listed) for id, listed in keys.items()}


def keymap(
    keys: Mapping[str, str], known: Mapping[str, str], built_in: Mapping[str, str] = NOTHING
) -> dict[str, str]:
    """Keys by the id of their action, as Textual wants them.

    `keys`: what the person wrote, several separated by commas. `known`: all ids, and what they
    do. `built_in`: the keys that actions have otherwise. Raises UsageError for an unknown id,
    for what is no key, for one that types a character, and for one that two actions have.
    """
    made: dict[str, str] = {}
    for id, written in keys.items():
        if id not in known:
            raise UsageError(f"keys.{id}: there is no such action; {choose(id, known)}")
        parsed = [_parse(id, key) for key in written.split(",")]
        made[id] = ",".join(dict.fromkeys(parsed))
    owners: dict[str, str] = {}
    others = {id: listed for id, listed in built_in.items() if id not in made}
    for id, listed in (*made.items(), *others.items()):
        for key in listed.split(","):
            key = _SENT_AS.get(key, key)
            if key in owners and (id in made or owners[key] in made):
                first, second = owners[key], id
                raise UsageError(
                    f"keys.{first}: {key} is also the key of {second} "
                    f"({known.get(second) or second}); give one of them another"
                )
            owners.setdefault(key, id)
    return made


def _parse(id: str, written: str) -> str:
    """A key in Textual's spelling."""
    *modifiers, name = [part.strip() for part in written.strip().split("+")]
    modifiers = [OTHER_NAMES.get(m.lower(), m.lower()) for m in modifiers]
    if len(name) > 1 or modifiers:
        name = OTHER_NAMES.get(name.lower(), name.lower())
    wrong = [m for m in modifiers if m not in MODIFIERS]
    known = name in _NAMED or (len(name) == 1 and name.isprintable()) or _character(name)
    if wrong or not known or len(set(modifiers)) < len(modifiers):
        raise UsageError(
            f"keys.{id}: {written.strip()!r} is no key; write one such as ctrl+l, f5 or "
            f"shift+enter ({', '.join(MODIFIERS)})"
        )
    if (len(name) == 1 or _character(name)) and not set(modifiers) - {"shift"}:
        raise UsageError(
            f"keys.{id}: {written.strip()!r} is typed into the message; add ctrl+, or take a "
            "function key"
        )
    if len(name) == 1:  # ctrl+/ is ctrl+slash
        name = next(iter(Binding.make_bindings([(name, "")]))).key
    key = "+".join((*sorted(modifiers), name))
    if key in _SENT_AS:
        raise UsageError(
            f"keys.{id}: most terminals send {key} as {_SENT_AS[key]}; take another key"
        )
    return key


def _character(name: str) -> bool:
    """Whether it is Textual's name of something that is typed: slash, space."""
    character = key_to_character(REPLACED_KEYS.get(name, name)) or ""
    return len(name) > 1 and character.isascii() and character.isprintable() and bool(character)
