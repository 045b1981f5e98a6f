"""A conversation as strings and tensors, to lie beside its KV cache in one file.

Knows nothing of caches or of how the file is written.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import mlx.core as mx
import numpy as np

from .errors import BadCheckpoint, UsageError
from .images import Picture
from .sampling import Sampling
from .tools.definitions import definitions

CHAT = "chat"  # the note
PICTURE, OBJECT = "picture", "object"  # what an object stands for that has one of these keys


def pack(
    messages: Sequence[Mapping[str, Any]], sampling: Sampling, tools: Sequence[Any]
) -> tuple[dict[str, str], dict[str, mx.array]]:
    """(notes, arrays). Pictures are kept as the model is shown them: their tiles, 8-bit."""
    pictures: list[Picture] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Picture):
            pictures.append(value)
            about = {"grid": value.grid, "size": value.size, "tokens": value.tokens}
            return {PICTURE: len(pictures) - 1, **about}
        if isinstance(value, Mapping):
            made = {key: plain(item) for key, item in value.items()}
            # What a tool returned may have any keys.
            return {OBJECT: made} if PICTURE in made or OBJECT in made else made
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    said = {
        "messages": plain(messages),
        "sampling": asdict(sampling),
        "tools": definitions(tools),
    }
    try:
        note = json.dumps(said)
    except TypeError as e:
        raise UsageError(f"the conversation holds what a file cannot keep ({e})") from None
    return {CHAT: note}, {f"picture.{i}": mx.array(p.levels) for i, p in enumerate(pictures)}


def unpack(
    notes: Mapping[str, str], arrays: Mapping[str, mx.array], name: str
) -> tuple[list[dict[str, Any]], Sampling, list[Any]]:
    """What `pack` was given. Raises BadCheckpoint for anything else."""
    if CHAT not in notes:
        raise BadCheckpoint(f"{name} holds a KV cache but no conversation; use load_session")

    def whole(value: Any) -> Any:
        if isinstance(value, dict) and OBJECT in value:
            return {key: whole(item) for key, item in value[OBJECT].items()}
        if isinstance(value, dict) and PICTURE in value:
            levels = np.array(arrays[f"picture.{value['picture']}"])
            return Picture.of(levels, tuple(value["grid"]), tuple(value["size"]), value["tokens"])
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        return [whole(item) for item in value] if isinstance(value, list) else value

    try:
        said = json.loads(notes[CHAT])
        sampling = said["sampling"]
        sampling["logit_bias"] = {int(id): bias for id, bias in sampling["logit_bias"].items()}
        return whole(said["messages"]), Sampling(**sampling), said["tools"]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadCheckpoint(f"the conversation in {name} cannot be read ({e})") from None
