"""The one thread that computes: models are loaded there, and every step is taken there.

Knows nothing of models. MLX's streams belong to threads, a lazy array cannot be evaluated on
another one, and two threads that use Metal at once are asking for trouble; so there is one for
the whole process, and calls from all others are handed to it and wait.

It is not a ThreadPoolExecutor, because it must not end: what MLX keeps for a thread is freed as
that thread ends, for which it takes Python's lock, and if Python is just shutting down the
process aborts (seen with MLX 0.32.4). So at exit it only finishes what it is doing.
"""

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_calls: SimpleQueue[tuple["Future[Any]", Callable[[], Any]]] = SimpleQueue()
_thread: threading.Thread | None = None
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
    global _thread
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_serve, name="mlx-maverick", daemon=True)
            _thread.start()
            atexit.register(_settle)
    future: Future[T] = Future()
    _calls.put((future, lambda: function(*args, **kwargs)))
    return future


def is_here() -> bool:
    """Whether this is the engine's thread."""
    return threading.current_thread() is _thread


def _serve() -> None:
    while True:
        _answer(*_calls.get())


def _answer(future: "Future[Any]", call: Callable[[], Any]) -> None:
    """In a function of its own, so that nothing of a call is kept until the next one comes."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as e:  # noqa: BLE001 - whatever it is, it belongs to the caller
        future.set_exception(e)
    else:
        future.set_result(result)


def _settle() -> None:
    """Wait until what runs has ended, and everything that was asked for before."""
    submit(lambda: None).result()
