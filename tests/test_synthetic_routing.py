"""Random routers spread random tokens as they are told to."""

import numpy as np
import pytest

from mlx_maverick.synthetic_routing import MOST, norms, router, won, zipf


def test_zipfs_law() -> None:
    assert zipf(4, 0).tolist() == [0.25] * 4
    assert zipf(4, 1) * 25 / 12 == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert zipf(3, 2) * 49 / 36 == pytest.approx([1, 1 / 4, 1 / 9])


@pytest.mark.parametrize(("experts", "exponent"), [(8, 1), (32, 1), (128, 1.2), (16, 0)])
def test_experts_win_their_shares(experts: int, exponent: float) -> None:
    wanted = zipf(experts, exponent)
    assert wanted[0] <= MOST
    found = norms(wanted)
    assert found.mean() == pytest.approx(1)
    assert won(found) == pytest.approx(wanted, rel=1e-3)
    logits = np.random.default_rng(0).standard_normal((200_000, experts)) * found
    counts = np.bincount(logits.argmax(axis=1), minlength=experts)
    assert counts / len(logits) == pytest.approx(wanted, rel=0.2)
    assert counts[0] / len(logits) == pytest.approx(wanted[0], rel=0.02)


def test_a_router_of_such_rows() -> None:
    found = norms(zipf(16, 1))
    first, again, other = (_values(router(found, 256, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    lengths = np.linalg.norm(first, axis=1) / (0.02 * 16)
    assert sorted(lengths) == pytest.approx(sorted(found), rel=0.01)
    # Who is popular is drawn, for each layer anew.
    assert lengths.argmax() != np.linalg.norm(other, axis=1).argmax()
    states = np.random.default_rng(2).standard_normal((20_000, 256))
    counts = np.bincount((states @ first.T).argmax(axis=1), minlength=16)
    assert sorted(counts / 20_000)[-4:] == pytest.approx(sorted(zipf(16, 1))[-4:], rel=0.25)


def _values(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
