"""Small reads answered from larger blocks: one request for what lies together.

Knows nothing of networks. An FP8 checkpoint has 9,216 scale tensors of 16 KB side by side,
and a request each would cost more time than their bytes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future

from mlx_maverick.errors import MaverickError

BLOCK_BYTES = 1 << 20
BLOCKS = 32

Fetch = Callable[[str, int, memoryview], None]


class Blocks:
    """The last 32 blocks read, of any file: at most 32 MiB. From several threads at once."""

    def __init__(self, sizes: Mapping[str, int], fetch: Fetch):
        """`fetch(name, offset, buffer)` fills the buffer or raises."""
        self._sizes = sizes
        self._fetch = fetch
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], Future[bytearray]] = OrderedDict()

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; the range must lie inside the file."""
        filled = 0
        while filled < len(buffer):
            number, skip = divmod(offset + filled, BLOCK_BYTES)
            piece = memoryview(self._block(name, number))[skip : skip + len(buffer) - filled]
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)

    def _block(self, name: str, number: int) -> bytearray:
        key = (name, number)
        while True:
            with self._lock:
                mine = key not in self._blocks
                block = self._blocks.setdefault(key, Future())
                self._blocks.move_to_end(key)
                if len(self._blocks) > BLOCKS:
                    self._blocks.popitem(last=False)
            if mine:
                return self._fill(key, block)
            try:
                return block.result()
            except CancelledError:
                continue  # who fetched it was interrupted: then it is on us

    def _fill(self, key: tuple[str, int], block: Future[bytearray]) -> bytearray:
        name, number = key
        start = number * BLOCK_BYTES
        data = bytearray(min(BLOCK_BYTES, self._sizes[name] - start))
        try:
            self._fetch(name, start, memoryview(data))
        except BaseException as e:
            with self._lock:
                if self._blocks.get(key) is block:
                    del self._blocks[key]
            if isinstance(e, MaverickError):
                block.set_exception(e)
            else:
                block.cancel()
            raise
        block.set_result(data)
        return data
