"""The one thread that computes: models are loaded there, and every step is taken there.

Knows nothing of models. MLX's streams belong to threads, a lazy array cannot be evaluated on
another one, and two threads that use Metal at once are asking for trouble; so there is one for
the whole process, and calls from all others are handed to it and wait.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_local = threading.local()
_executor: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` on the engine's thread; its result, or what it raises.

    From the engine's thread itself (as callbacks are) it is a plain call. An interrupt of the
    waiting thread leaves the call running.
    """
    if is_here():
        return function(*args, **kwargs)
    return submit(function, *args, **kwargs).result()


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    """The same without waiting."""
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(1, "mlx-maverick", initializer=_begin)
    return _executor.submit(function, *args, **kwargs)


def is_here() -> bool:
    """Whether this is the engine's thread."""
    return getattr(_local, "engine", False)


def _begin() -> None:
    _local.engine = True
