"""A cache in a file, so that a long document is prefilled once.

Knows nothing of what the tokens were: who saves adds arrays and notes of their own. The file is
a safetensors file with what is held of the buffers, without spare room. It appears whole or not
at all; every byte of it is covered by a checksum, and what does not belong to the same model
and options is refused.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint import Header, Tensor, parsed
from ..disk import FULL, sync_path
from ..errors import BadCheckpoint, DoesNotFit, MaverickError, NotFound, UsageError
from ..files import Folder, given
from ..kv import KVOptions
from ..units import gb
from . import state
from .arrays import KNOWN, Changed, check, read, total_bytes, write
from .cache import Cache

FORMAT, VERSION = "mlx-maverick KV cache", "1"
REMEDY = "delete it, or name another file"
OWN = "own."  # before the names of arrays that are not the cache's


@dataclass(frozen=True)
class Stored:
    """What a file held."""

    cache: Cache
    arrays: dict[str, mx.array]
    notes: dict[str, str]


def save(
    path: str | Path,
    cache: Cache,
    *,
    fingerprint: str,
    arrays: Mapping[str, mx.array] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a cache of one sequence, and what else belongs to it, in place of what is at `path`.

    `fingerprint` names the model (see `fingerprint.model_fingerprint`). Raises NotFound for a
    folder that is not there, DoesNotFit where the disk has no room, MaverickError where it
    cannot be written; nothing is left of it then, and an older file stays.
    """
    path = place(path)
    tensors = state.rows(cache)
    tensors.update({OWN + name: array for name, array in (arrays or {}).items()})
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "options": json.dumps(asdict(cache.options)),
        "state": json.dumps(state.numbers(cache)),
        "notes": json.dumps(dict(notes or {})),
    }
    size = total_bytes(tensors, metadata)
    partial = None
    try:
        if (free := shutil.disk_usage(path.parent).free) < size:
            raise _no_room(path, size, free)
        number, name = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
        partial = Path(name)
        with os.fdopen(number, "wb") as file:
            write(file, tensors, metadata)
        partial.replace(path)
        partial = None
        sync_path(path.parent)
    except OSError as e:
        if e.errno in FULL:
            raise _no_room(path, size, shutil.disk_usage(path.parent).free) from None
        raise _unwritable(path, str(e.strerror)) from None
    finally:
        if partial is not None:
            with suppress(FileNotFoundError):
                partial.unlink()


def place(path: str | Path) -> Path:
    """Where a cache can be saved, as far as that can be told beforehand: `path`, or what it
    links to.

    Raises UsageError for what is there and is no file, NotFound for a folder that is not,
    MaverickError for one that nothing can be written in.
    """
    path = given(path)
    try:
        path = Path(os.path.realpath(path))
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file to save the KV cache in")
        if path.exists() and not path.is_file():  # a device, a pipe: it would be replaced
            raise UsageError(f"{path} is not an ordinary file; name another for the KV cache")
        if not path.parent.exists():
            raise NotFound(f"{path.parent} is not there to save a KV cache in; make it first")
        if not os.access(path.parent, os.W_OK):
            raise _unwritable(path, "its folder is read-only")
    except OSError as e:
        raise _unwritable(path, str(e.strerror)) from None
    return path


@dataclass(frozen=True)
class _Opened:
    """A file whose header belongs to the model and the options."""

    path: Path
    files: Folder
    header: Header
    metadata: Mapping[str, str]
    cache: Cache  # empty, but for its numbers
    wanted: Mapping[int, Mapping[str, state.Row]]


def check_file(path: str | Path, make: Callable[[], Cache], *, fingerprint: str) -> None:
    """Raises as `load`, for all that can be told without reading the tensors."""
    _opened(path, make, fingerprint)


def load(path: str | Path, make: Callable[[], Cache], *, fingerprint: str) -> Stored:
    """Read what `save` wrote into an empty cache from `make`, which decodes from there bit for
    bit as the saved one would have.

    Raises NotFound without the file; BadCheckpoint if it is damaged, of another version, or of
    another model than `fingerprint` says; UsageError if it was made with other options than
    those of `make`, or holds more than its context.
    """
    o = _opened(path, make, fingerprint)
    found = {t.name: t for t in o.header.tensors}
    sums = _strings(o.path, o.metadata, "crc32")

    def array(tensor: Tensor, room: int | None = None) -> mx.array:
        if tensor.dtype not in KNOWN:
            raise BadCheckpoint(f"{o.path} has {tensor.name} as {tensor.dtype}; {REMEDY}")
        try:
            return read(o.files, tensor, sums.get(tensor.name), room)
        except Changed:
            raise BadCheckpoint(f"{o.path} is damaged in {tensor.name}; {REMEDY}") from None

    for layer, rows in o.wanted.items():
        parts = {row.part: array(found[name], row.capacity) for name, row in rows.items()}
        o.cache.layers[layer].restore(parts)
    own = {name: tensor for name, tensor in found.items() if name.startswith(OWN)}
    arrays = {name.removeprefix(OWN): array(tensor) for name, tensor in own.items()}
    return Stored(o.cache, arrays, _strings(o.path, o.metadata, "notes"))


def _opened(path: str | Path, make: Callable[[], Cache], fingerprint: str) -> _Opened:
    path = given(path)
    try:
        if not path.is_file():
            raise NotFound(f"{path} is not a file; name one that a KV cache was saved in")
        files, size = Folder(path.parent), path.stat().st_size
    except OSError as e:
        raise NotFound(f"{path} cannot be looked at ({e.strerror}); name another file") from None
    header = parsed(files, path.name, size, REMEDY)
    metadata = _metadata(path, header, size)
    if metadata["fingerprint"] != fingerprint:
        raise BadCheckpoint(
            f"{path} holds the KV cache of another model, or of this one computed in another "
            f"type; {REMEDY}"
        )
    cache = make()
    numbers = _same_options(path, metadata, cache)
    try:
        wanted = state.restore(cache, numbers)
    except ValueError as e:
        raise BadCheckpoint(f"{path} contradicts itself: {e}; {REMEDY}") from None
    if cache.most is not None and cache.length > cache.most:
        raise UsageError(
            f"{path} holds {cache.length:,} tokens, more than the context of {cache.most:,}; "
            "use a larger --context"
        )
    _check_tensors(path, {t.name: t for t in header.tensors if not t.name.startswith(OWN)}, wanted)
    return _Opened(path, files, header, metadata, cache, wanted)


def _no_room(path: Path, size: int, free: int) -> DoesNotFit:
    return DoesNotFit(
        f"{path} needs {gb(size)} and its disk has {gb(free)} left; free some space, or save the "
        "KV cache elsewhere"
    )


def _unwritable(path: Path, why: str) -> MaverickError:
    return MaverickError(f"{path} cannot be written ({why}); save the KV cache elsewhere")


def _metadata(path: Path, header: Header, size: int) -> Mapping[str, str]:
    """The file's own description, once it is known to be ours and undamaged."""
    metadata = header.metadata
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadCheckpoint(f"{path} is not a KV cache that mlx-maverick saved; {REMEDY}")
    if metadata.get("version") != VERSION:
        raise BadCheckpoint(
            f"{path} was saved by another version of mlx-maverick (its format is "
            f"{metadata.get('version')!r}, not {VERSION!r}); {REMEDY}"
        )
    try:
        check(header, size)
    except Changed:
        raise BadCheckpoint(f"{path} was changed after it was saved; {REMEDY}") from None
    return metadata


def _strings(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, str]:
    value = _json(path, metadata, key)
    return {str(name): str(said) for name, said in value.items()}


def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, TypeError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} lacks its {key}; {REMEDY}")
    return value


def _same_options(path: Path, metadata: Mapping[str, str], cache: Cache) -> dict[str, Any]:
    """The file's numbers, if its options are those of `cache`."""
    raw = _json(path, metadata, "options")
    try:
        options = KVOptions(**raw)
    except (TypeError, UsageError):
        raise BadCheckpoint(f"{path} has options that do not exist; {REMEDY}") from None
    if options != cache.options:
        raise UsageError(
            f"{path} holds a KV cache {_said(options)}, and this one is to be "
            f"{_said(cache.options)}; give the same --kv-bits, --quantized-kv-start and "
            "--max-kv-size, or another file"
        )
    return _json(path, metadata, "state")


def _said(options: KVOptions) -> str:
    bits = f"of {options.bits} bits" if options.bits else "that is not quantised"
    start = f" from token {options.start:,} on" if options.start else ""
    size = f"at most {options.max_size:,} tokens" if options.max_size else "any number of tokens"
    return f"{bits}{start} with {size}"


def _check_tensors(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[int, Mapping[str, state.Row]]
) -> None:
    rows = {name: row for parts in wanted.values() for name, row in parts.items()}
    if odd := sorted(found.keys() ^ rows.keys()):
        what = "lacks" if odd[0] in rows else "holds an unknown"
        raise BadCheckpoint(f"{path} {what} {odd[0]}; {REMEDY}")
    for name, row in rows.items():
        tensor = found[name]
        if tensor.shape != row.shape or tensor.dtype != row.dtype:
            raise BadCheckpoint(
                f"{path} has {name} as {tensor.dtype} {list(tensor.shape)}, not {row.dtype} "
                f"{list(row.shape)}; {REMEDY}"
            )
