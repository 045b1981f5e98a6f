import mlx.core as mx
import pytest

from mlx_maverick.config import Quant
from mlx_maverick.convert.outputs import entries
from mlx_maverick.convert.quantise import quantise
from mlx_maverick.errors import BadCheckpoint


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_the_planned_tensors_are_those_made(bits: int) -> None:
    matrix = mx.random.normal((4, 6, 128)).astype(mx.bfloat16)
    quant = Quant(64, bits)
    made = quantise(matrix, "x.weight", quant)
    planned = {e.name: e for e in entries("x.weight", matrix.shape, quant)}
    assert list(made) == list(planned) == ["x.weight", "x.scales", "x.biases"]
    for name, values in made.items():
        assert values.shape == planned[name].shape
        assert values.nbytes == planned[name].nbytes


def test_rows_may_come_in_pieces() -> None:
    matrix = mx.random.normal((10, 128)).astype(mx.bfloat16)
    whole = quantise(matrix, "x.weight", Quant(64, 4))
    pieces = [quantise(matrix[a:b], "x.weight", Quant(64, 4)) for a, b in [(0, 3), (3, 10)]]
    for name, values in whole.items():
        assert mx.array_equal(values, mx.concatenate([p[name] for p in pieces]))


def test_a_transposed_matrix_is_quantised_as_if_it_had_been_stored_so() -> None:
    stored = mx.random.normal((128, 6)).astype(mx.bfloat16)
    transposed = mx.array(stored.astype(mx.float32).tolist()).T.astype(mx.bfloat16)
    expected = mx.quantize(mx.contiguous(transposed), 64, 6)
    made = quantise(mx.swapaxes(stored, -1, -2), "x.weight", Quant(64, 6))
    assert all(mx.array_equal(a, b) for a, b in zip(made.values(), expected, strict=True))


def test_unquantised_is_itself() -> None:
    matrix = mx.random.normal((3, 5)).astype(mx.bfloat16)
    assert mx.array_equal(quantise(matrix, "y", None)["y"], matrix)
    (entry,) = entries("y", (3, 5), None)
    assert (entry.name, entry.dtype, entry.shape) == ("y", "BF16", (3, 5))


def test_a_range_beyond_bf16_is_refused() -> None:
    matrix = mx.zeros((2, 64), mx.bfloat16)
    matrix[1, 0], matrix[1, 1] = 3.3e38, -3.3e38
    with pytest.raises(BadCheckpoint, match=r"x\.weight"):
        quantise(matrix, "x.weight", Quant(64, 2))
