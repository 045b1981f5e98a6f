"""Arrays in a safetensors file, each with a checksum, and a checksum of the header.

Knows nothing of what the arrays are. One at a time is copied, whatever their number.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from ..checkpoint import DTYPE_BITS, Header, Tensor
from ..disk import sync
from ..files import Folder

UNKNOWN = "00000000"  # a checksum before it is computed
# bf16 has no type in numpy: its bits are moved.
TYPES = {
    mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16",
    mx.uint32: "U32", mx.int32: "I32", mx.uint64: "U64", mx.int64: "I64",
    mx.float16: "F16", mx.bfloat16: "BF16", mx.float32: "F32",
}  # fmt: skip
KNOWN = frozenset(TYPES.values())
NUMPY = {"BOOL": "?", "F16": "<f2", "BF16": "<u2", "F32": "<f4"}


class Changed(Exception):
    """Bytes that are not those that were written."""


def total_bytes(tensors: Mapping[str, mx.array], metadata: Mapping[str, str]) -> int:
    """Of the file that `write` makes."""
    return len(_header(tensors, metadata, {})) + sum(int(a.nbytes) for a in tensors.values())


def write(file: BinaryIO, tensors: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Write all of a file, and wait until it is on the disk. The header's place is kept for
    what is known at the end."""
    sums = {}
    file.write(_header(tensors, metadata, {}))
    for name, array in tensors.items():
        bits = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        data = np.array(mx.contiguous(bits), copy=False).reshape(-1)
        view = data.view(np.uint8).data if data.size else memoryview(b"")
        sums[name] = f"{zlib.crc32(view):08x}"
        file.write(view)
    file.seek(0)
    file.write(_header(tensors, metadata, sums))
    file.flush()
    sync(file.fileno())


def check(header: Header, size: int) -> None:
    """Raises Changed if the header of a file of `size` bytes is not as it was written."""
    end = max((t.offset + t.nbytes for t in header.tensors), default=8 + len(header.text))
    value = str(header.metadata.get("header_crc32"))
    text = header.text.replace(_header_sum(value), _header_sum(UNKNOWN))
    if value != f"{zlib.crc32(text):08x}" or end != size:
        raise Changed


def read(files: Folder, tensor: Tensor, crc32: str | None, room: int | None = None) -> mx.array:
    """A tensor of a type in KNOWN, checked and computed; with `room` one with its rows on the
    third of four axes, which get spare room up to that many. Raises Changed."""
    bits = DTYPE_BITS[tensor.dtype]
    kind = "u" if tensor.dtype.startswith("U") else "i"
    dtype = np.dtype(NUMPY.get(tensor.dtype, f"<{kind}{bits // 8}"))
    if room is None:
        data = np.zeros(tensor.shape, dtype)
        pieces = [data.reshape(-1)]
    else:
        batch, heads, count, width = tensor.shape
        data = np.zeros((batch, heads, room, width), dtype)
        pieces = [data[b, h, :count].reshape(-1) for b in range(batch) for h in range(heads)]
    offset, crc = tensor.offset, 0
    for piece in pieces:
        if piece.size:
            view = piece.view(np.uint8).data
            files.read(tensor.file.name, offset, view)
            offset, crc = offset + piece.nbytes, zlib.crc32(view, crc)
    if crc32 != f"{crc:08x}":
        raise Changed
    array = mx.array(data)
    array = array.view(mx.bfloat16) if tensor.dtype == "BF16" else array
    mx.eval(array)
    return array


def _header(
    tensors: Mapping[str, mx.array], metadata: Mapping[str, str], sums: Mapping[str, str]
) -> bytes:
    """With the 8 bytes of its length; as long without the checksums as with them."""
    crc = json.dumps({name: sums.get(name, UNKNOWN) for name in tensors})
    fields: dict[str, Any] = {"__metadata__": {**metadata, "crc32": crc, "header_crc32": UNKNOWN}}
    offset = 0
    for name, array in tensors.items():
        end = offset + int(array.nbytes)
        fields[name] = {
            "dtype": TYPES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = text.replace(_header_sum(UNKNOWN), _header_sum(f"{zlib.crc32(text):08x}"))
    return struct.pack("<Q", len(text)) + text


def _header_sum(value: str) -> bytes:
    return f'"header_crc32":"{value}"'.encode()
