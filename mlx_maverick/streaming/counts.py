"""How often each expert of a model was used, kept for the next time it is loaded.

Knows nothing of slots. A file that cannot be read or written is a lost convenience, said in the
log.
"""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import paths

log = logging.getLogger(__name__)

# Rows counted from which on older ones count less: what was asked long ago fades.
MOST = 1 << 20


def place(fingerprint: str) -> Path:
    """Where the counts of a model are, beside what else can be made again."""
    return paths.cache_dir() / "experts" / f"{fingerprint}.npy"


def load(file: Path, layers: int, experts: int) -> NDArray[np.int64]:
    """Rows that each expert computed, [layers with experts, experts]; zeros without a file."""
    none = np.zeros((layers, experts), np.int64)
    try:
        counts = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return none
    except (OSError, ValueError, EOFError) as e:
        log.warning("expert counts in %s cannot be read (%s); starting without", file, e)
        return none
    if counts.shape != none.shape or counts.dtype != np.int64 or counts.min() < 0:
        log.warning("expert counts in %s are not of this model; starting without", file)
        return none
    while counts.sum() > MOST:
        counts //= 2
    return np.asarray(counts)


def save(file: Path, counts: NDArray[np.int64]) -> None:
    """Write them, whole or not at all."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as out:
                np.save(out, counts, allow_pickle=False)
            os.replace(name, file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        log.warning("expert counts cannot be written to %s (%s)", file, e.strerror)
