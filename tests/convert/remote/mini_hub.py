"""A small repository for the tests of `convert.remote`, and how they read it.

Knows nothing of the server; the fixtures of `conftest` put the two together.
"""

import random

from mlx_maverick.files import Files

REPO = "meta-llama/Mini"
BIG = "model.safetensors"
SIZE = 1_000_003
CONTENT = random.Random(0).randbytes(SIZE)
TOKEN = "hf_secret"


def read(files: Files, offset: int = 0, count: int = SIZE, name: str = BIG) -> bytes:
    buffer = bytearray(count)
    files.read(name, offset, memoryview(buffer))
    return bytes(buffer)
