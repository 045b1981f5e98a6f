"""Matrices behind one call, dense or quantised, joined or not."""

import mlx.core as mx
import pytest

from mlx_maverick.config import Quant
from mlx_maverick.model.linear import Embedding, ExpertLinear, JoinedLinear, Linear, Matrix

from ..golden import difference

QUANTS = [None, Quant(64, 4), Quant(32, 8), Quant(64, 3), Quant(32, 4, "mxfp4")]


def matrix(shape: tuple[int, ...], quant: Quant | None, seed: int = 0) -> tuple[Matrix, mx.array]:
    """A matrix as stored, and the values it stands for."""
    values = mx.random.normal(shape, key=mx.random.key(seed)).astype(mx.float32)
    if quant is None:
        return Matrix(values), values
    settings = {"group_size": quant.group_size, "bits": quant.bits, "mode": quant.mode}
    parts = mx.quantize(values, **settings)
    biases = parts[2] if len(parts) > 2 else None
    return (
        Matrix(parts[0], parts[1], biases, quant),
        mx.dequantize(parts[0], parts[1], biases, **settings).astype(mx.float32),
    )


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("biased", [False, True])
def test_linear(quant: Quant | None, biased: bool) -> None:
    stored, values = matrix((96, 128), quant)
    bias = mx.arange(96).astype(mx.float32) if biased else None
    x = mx.random.normal((2, 3, 128), key=mx.random.key(9))
    wanted = x @ values.T + (bias if bias is not None else 0)
    assert difference(Linear(stored, bias)(x), wanted) <= 1e-3


@pytest.mark.parametrize("quant", QUANTS)
def test_projections_that_agree_are_one(quant: Quant | None) -> None:
    parts = [Linear(matrix((rows, 128), quant, rows)[0]) for rows in (64, 32, 32)]
    joined = JoinedLinear(parts, [64, 32, 32])
    assert len(joined.parts) == 1
    x = mx.random.normal((1, 5, 128), key=mx.random.key(1))
    for part, out in zip(parts, joined(x), strict=True):
        assert difference(part(x), out) <= 1e-5


@pytest.mark.parametrize("bits", [4, 6])
def test_all_projections_as_one_array(bits: int) -> None:
    """Joined where they agree, and the same where they do not."""
    parts = [
        Linear(matrix((32, 128), Quant(64, 4))[0]),
        Linear(matrix((64, 128), Quant(64, bits), 1)[0]),
    ]
    joined = JoinedLinear(parts, [32, 64])
    x = mx.random.normal((1, 5, 128), key=mx.random.key(1))
    wanted = mx.concatenate([part(x) for part in parts], axis=-1)
    assert difference(joined.whole(x), wanted) <= 1e-5


def test_projections_that_differ_stay_apart() -> None:
    parts = [
        Linear(matrix((32, 128), Quant(64, 4))[0]),
        Linear(matrix((32, 128), Quant(64, 6))[0]),
    ]
    joined = JoinedLinear(parts, [32, 32])
    assert len(joined.parts) == 2
    x = mx.random.normal((1, 5, 128), key=mx.random.key(1))
    for part, out in zip(parts, joined(x), strict=True):
        assert difference(part(x), out) == 0


@pytest.mark.parametrize("quant", QUANTS)
def test_embedding(quant: Quant | None) -> None:
    stored, values = matrix((50, 128), quant)
    ids = mx.array([[3, 0, 49], [1, 1, 7]])
    assert difference(Embedding(stored, mx.float32)(ids), values[ids]) <= 1e-6


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("ordered", [False, True])
def test_each_row_goes_through_its_expert(quant: Quant | None, ordered: bool) -> None:
    stored, values = matrix((4, 96, 128), quant)
    experts = mx.array([0, 1, 1, 3, 3] if ordered else [3, 1, 0, 1, 2])
    x = mx.random.normal((5, 1, 128), key=mx.random.key(2))
    out = ExpertLinear(stored)(x, experts.astype(mx.uint32), ordered)
    for row, expert in enumerate(experts.tolist()):
        assert difference(out[row], x[row] @ values[expert].T) <= 1e-3


@pytest.mark.parametrize("kind", [Linear, ExpertLinear])
def test_weights_that_are_not_quantised_are_held_once(kind: type[Linear | ExpertLinear]) -> None:
    """Though laid out anew for a CPU."""
    shape = (512, 1024) if kind is Linear else (4, 128, 1024)
    stored = Matrix(mx.random.normal(shape))
    mx.eval(stored.weight)
    before, size = mx.get_active_memory(), stored.weight.nbytes
    linear = kind(stored)
    mx.eval(*linear.matrix.arrays)
    del stored
    rest = [mx.array([1, 0]), False] if kind is ExpertLinear else []
    mx.eval(linear(mx.ones((2, 1, 1024)), *rest))
    assert mx.get_active_memory() - before < size / 10
