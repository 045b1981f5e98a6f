"""The thread that computes: one for all callers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from mlx_maverick import engine_thread


def test_all_callers_get_the_same_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: engine_thread.run(threading.get_ident), range(20)))
    assert len(names) == 1
    assert threading.get_ident() not in names


def test_results_and_errors_come_back() -> None:
    assert engine_thread.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        engine_thread.run(divmod, 7, 0)


def test_a_call_from_the_thread_itself_does_not_wait() -> None:
    assert engine_thread.run(lambda: engine_thread.run(lambda: 5)) == 5
    assert engine_thread.run(engine_thread.is_here)
    assert not engine_thread.is_here()


def test_lazy_arrays_can_be_evaluated_there_later() -> None:
    lazy = engine_thread.run(lambda: mx.ones((4,)) + 1)
    assert engine_thread.run(lambda: lazy.sum().item()) == 8
