"""What the machine's memory is doing now: used, available, swapped, and how pressed it is.

Knows nothing of models or mlx. A reading is a few system calls: cheap enough for several
a second. Asking the system (`raw` of `mac` and `linux`) is apart from understanding the
answer (`parse`), so that the latter is tested with recorded values.
"""

import sys

from ..errors import MaverickError
from . import linux, mac
from .reading import Pressure, Reading, by_available

__all__ = ["Pressure", "Reading", "by_available", "read"]


def read() -> Reading:
    """The machine's memory now. Raises MaverickError where the system does not tell."""
    if sys.platform == "darwin":
        return mac.parse(mac.raw())
    elif sys.platform == "linux":
        return linux.parse(*linux.raw())
    else:
        raise MaverickError(f"memory cannot be read on {sys.platform}; use macOS or Linux")
