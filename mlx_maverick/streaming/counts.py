"""How often each expert of a model was used, kept for the next time it is loaded.

Knows nothing of slots. A file that cannot be read or written is a lost convenience, said in the
log.
"""

import logging
import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import paths

log = logging.getLogger(__name__)

# Rows counted from which on older ones count less: what was asked long ago fades.
MOST = 1 << 20


def place(fingerprint: str) -> Path:
    """Where the counts of a model are, beside what else can be made again. Nothing is created,
    as that might fail."""
    folder = paths.locate(paths.Kind.CACHE, os.environ, sys.platform)
    return folder / "experts" / f"{fingerprint}.npy"


def load(file: Path, layers: int, experts: int) -> NDArray[np.int64]:
    """Rows that each expert computed, [layers with experts, experts]; zeros without a file."""
    none = np.zeros((layers, experts), np.int64)
    try:
        # Mapped: a shape that the file does not have asks for no memory, and a pickle or an
        # archive is none of these files.
        counts = np.array(np.lib.format.open_memmap(file, mode="r"))
    except FileNotFoundError:
        return none
    except (OSError, ValueError, OverflowError) as e:
        log.warning("expert counts in %s cannot be read (%s); starting without", file, e)
        return none
    if counts.shape != none.shape or counts.dtype != np.int64 or counts.min() < 0:
        log.warning("expert counts in %s are not of this model; starting without", file)
        return none
    while counts.sum(dtype=np.float64) > MOST:
        counts //= 2
    return counts


def save(file: Path, counts: NDArray[np.int64]) -> None:
    """Write them, whole or not at all."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = BytesIO()  # numpy itself loses what does not fit on a disk without a word
        np.save(data, counts, allow_pickle=False)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(data.getbuffer())
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        log.warning("expert counts cannot be written to %s (%s)", file, e.strerror or e)
