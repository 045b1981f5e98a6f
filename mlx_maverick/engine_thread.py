"""The one thread that computes: models are loaded there, and every step is taken there.

Knows nothing of models. MLX's streams belong to threads, a lazy array cannot be evaluated on
another one, and two threads that use Metal at once are asking for trouble; so there is one for
the whole process, and calls from all others are handed to it and wait.

It is not a ThreadPoolExecutor, because it must not end: what MLX keeps for a thread is freed as
that thread ends, for which it takes Python's lock, and if Python is just shutting down the
process aborts (seen with MLX 0.32.4). So at exit it only ends what it is doing, early where that
can be; from then on other threads, which Python no longer waits for, are left waiting.
"""

import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from .errors import MaverickError

P = ParamSpec("P")
T = TypeVar("T")

# Who waits, what for, and whether that is the main thread.
_calls: SimpleQueue[tuple["Future[Any]", Callable[[], Any], bool]] = SimpleQueue()
_thread: threading.Thread | None = None
_lock = threading.RLock()  # a signal's handler may come in while it is held
_ending = False  # the process is
_forked = False  # from one that had such a thread


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
    future: Future[T] = Future()
    with _lock:
        if _forked:
            raise MaverickError(
                "a forked process cannot compute with its parent's MLX; start it with "
                "multiprocessing's 'spawn', and load the model there"
            )
        if _thread is None:
            _thread = threading.Thread(target=_serve, name="mlx-maverick", daemon=True)
            _thread.start()
            atexit.register(_settle)
        main = threading.current_thread() is threading.main_thread()
        # Python may stop daemon threads' calls anywhere now, in MLX too, which then aborts.
        if main or not _ending:
            _calls.put((future, lambda: function(*args, **kwargs), main))
    return future


def ending() -> bool:
    """Whether the process is: what runs should end soon."""
    return _ending


def is_here() -> bool:
    """Whether this is the engine's thread."""
    return threading.current_thread() is _thread


def _serve() -> None:
    while True:
        _answer(*_calls.get())


def _answer(future: "Future[Any]", call: Callable[[], Any], main: bool) -> None:
    """In a function of its own, so that nothing of a call is kept until the next one comes."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as e:  # noqa: BLE001 - whatever it is, it belongs to the caller
        if main or not _ending:  # a thread that is left behind would print its traceback
            future.set_exception(e)
        # Its traceback holds this frame, and so the reply's memory, in a circle.
        del future, call
    else:
        future.set_result(result)


def _settle() -> None:
    """Wait until what runs has ended, and everything that was asked for before."""
    global _ending
    with _lock:
        if _thread is None:  # in a forked process
            return
        _ending = True
        last = submit(lambda: None)
    last.result()


def _leave_behind() -> None:
    """In a forked process: the thread is not there, nor who could answer its calls."""
    global _thread, _lock, _forked
    _lock = threading.RLock()
    _forked, _thread = _forked or _thread is not None, None


os.register_at_fork(after_in_child=_leave_behind)
