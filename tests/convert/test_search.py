from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.config import Quant
from mlx_maverick.convert import search as search_module
from mlx_maverick.convert.search import pack, search

BITS = [2, 3, 4, 5, 6, 8]
GROUPS = [32, 64, 128]
Triple = tuple[mx.array, mx.array, mx.array]


def weights(kind: str, rows: int = 128, columns: int = 1024) -> mx.array:
    draw = np.random.default_rng(7)
    shape = (rows, columns)
    values = {
        "t4": lambda: draw.standard_t(4, shape),
        "laplace": lambda: draw.laplace(size=shape),
        "gaussian": lambda: draw.standard_normal(shape),
    }[kind]()
    return mx.array((0.02 * values).astype(np.float32)).astype(mx.bfloat16)


def codes(packed: mx.array, quant: Quant) -> np.ndarray:
    """Read bit by bit, independently of mlx: [rows, in]."""
    octets = np.array(packed).astype("<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, bitorder="little")
    return bits.reshape(len(octets), -1, quant.bits) @ (1 << np.arange(quant.bits))


def errors(matrix: mx.array, made: Triple, quant: Quant) -> np.ndarray:
    """Squared, in float64: [rows, groups, group size]."""
    exact = np.array(matrix.astype(mx.float32), np.float64)
    exact = exact.reshape(len(exact), -1, quant.group_size)
    scales, biases = (np.array(a.astype(mx.float32), np.float64)[..., None] for a in made[1:])
    return (scales * codes(made[0], quant).reshape(exact.shape) + biases - exact) ** 2


def plain(matrix: mx.array, quant: Quant) -> Triple:
    made = mx.quantize(matrix, quant.group_size, quant.bits)
    assert made[1].dtype == mx.bfloat16
    return made


# How much lower the mean squared error is, a little under what was measured.
LOWER = {
    ("t4", 2): 0.34,
    ("t4", 3): 0.258,
    ("t4", 4): 0.188,
    ("t4", 5): 0.173,
    ("t4", 6): 0.186,
    ("t4", 8): 0.498,
    ("laplace", 2): 0.3,
    ("laplace", 3): 0.235,
    ("laplace", 4): 0.185,
    ("gaussian", 2): 0.335,
    ("gaussian", 3): 0.245,
    ("gaussian", 4): 0.195,
}


@pytest.mark.parametrize(("kind", "bits"), LOWER)
def test_the_error_is_well_below_that_of_min_max(kind: str, bits: int) -> None:
    matrix, quant = weights(kind), Quant(64, bits)
    found = errors(matrix, search(matrix, quant), quant).sum()
    assert found < (1 - LOWER[kind, bits]) * errors(matrix, plain(matrix, quant), quant).sum()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", GROUPS)
def test_no_group_is_worse(size: int, bits: int) -> None:
    matrix, quant = weights("t4", rows=64), Quant(size, bits)
    found = errors(matrix, search(matrix, quant), quant).sum(-1)
    before = errors(matrix, plain(matrix, quant), quant).sum(-1)
    assert (found <= before * (1 + 1e-5)).all()
    assert found.sum() < 0.95 * before.sum()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", GROUPS)
def test_mlx_reads_what_was_packed(size: int, bits: int) -> None:
    matrix, quant = weights("gaussian", rows=6), Quant(size, bits)
    packed, scales, biases = search(matrix, quant)
    assert packed.dtype == mx.uint32
    assert packed.shape == (6, 1024 * bits // 32)
    assert scales.dtype == biases.dtype == mx.bfloat16
    assert scales.shape == biases.shape == (6, 1024 // size)
    wide = scales.astype(mx.float32), biases.astype(mx.float32)
    read = np.array(mx.dequantize(packed, *wide, size, bits)).reshape(6, -1, size)
    scale, bias = (np.array(a, np.float64)[..., None] for a in wide)
    expected = scale * codes(packed, quant).reshape(read.shape) + bias
    np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (3, 128)).astype(np.uint8)
    packed = pack(mx.array(values), bits)
    assert packed.shape == (3, 128 * bits // 32)
    ones, zeros = mx.ones((3, 2)), mx.zeros((3, 2))
    read = mx.dequantize(packed, ones, zeros, 64, bits)
    assert np.array_equal(np.array(read), values)


@pytest.mark.parametrize("bits", BITS)
def test_odd_groups(bits: int) -> None:
    quant = Quant(64, bits)
    noise = np.random.default_rng(3).standard_normal(64)
    outlier = 0.02 * noise
    outlier[17] = -1000
    rows = {
        "zero": np.zeros(64),
        "constant": np.full(64, -0.37),
        "one off": np.eye(64)[0] * 0.01 + 1,
        "outlier": outlier,
        "two values": np.where(noise > 0, 0.5, -0.25),
        "far from zero": 100 + noise,
        "tiny": 1e-12 * noise,
        "denormal": 1e-39 * noise,
        "huge": 3e37 * np.tanh(noise),
        "all near the maximum": 3.3e38 - 1e37 * np.abs(np.tanh(noise)),
    }
    matrix = mx.array(np.stack(list(rows.values())).astype(np.float32)).astype(mx.bfloat16)
    made = search(matrix, quant)
    assert mx.isfinite(made[1]).all()
    assert mx.isfinite(made[2]).all()
    assert codes(made[0], quant).max() < 2**bits
    found = errors(matrix, made, quant).sum(-1)[:, 0]
    before = errors(matrix, plain(matrix, quant), quant).sum(-1)[:, 0]
    assert (found <= before * (1 + 1e-5)).all(), list(rows)
    assert found[0] == found[1] == 0
    if bits <= 4:  # mx.quantize has no step below 1e-7
        assert found[6] < 0.5 * before[6]


def test_a_range_beyond_bf16_is_infinite_not_a_crash() -> None:
    matrix = mx.zeros((2, 64), mx.bfloat16)
    matrix[1, 0], matrix[1, 1] = 3.3e38, -3.3e38
    for bits in BITS:
        packed, scales, biases = search(matrix, Quant(64, bits))
        mx.eval(packed)
        finite = mx.isfinite(scales) & mx.isfinite(biases)
        assert finite.flatten().tolist() == [True, False]


@pytest.mark.parametrize("bits", BITS)
def test_importance_lowers_the_weighted_error(bits: int) -> None:
    matrix, quant = weights("t4", rows=64), Quant(64, bits)
    draw = np.random.default_rng(5)
    importance = np.exp(1.5 * draw.standard_normal(1024)).astype(np.float32)
    importance[draw.integers(0, 1024, 100)] = 0
    importance[64:128] = 0  # a group that says nothing

    def weighted(made: Triple) -> np.ndarray:
        error = errors(matrix, made, quant) * importance.reshape(1, -1, 64)
        return error.sum(-1)

    found = weighted(search(matrix, quant, mx.array(importance)))
    assert (found <= weighted(plain(matrix, quant)) * (1 + 1e-5)).all()
    assert (
        found.sum()
        < {2: 0.7, 3: 0.7, 4: 0.75, 5: 0.75, 6: 0.8, 8: 0.9}[bits]
        * weighted(search(matrix, quant)).sum()
    )


def test_importance_has_no_unit_and_even_importance_changes_nothing() -> None:
    matrix, quant = weights("laplace", rows=8), Quant(64, 3)
    without = search(matrix, quant)
    for even in (1.0, 1024.0, 0.0):
        made = search(matrix, quant, mx.full((1024,), even))
        assert all(mx.array_equal(a, b) for a, b in zip(made, without, strict=True))
    importance = mx.arange(1024).astype(mx.float32)
    one, two = search(matrix, quant, importance), search(matrix, quant, importance * 4096)
    assert all(mx.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rows_in_any_pieces_give_the_same_bytes(bits: int, weighted: bool) -> None:
    matrix, quant = weights("t4", rows=37), Quant(128, bits)
    importance = mx.arange(1024).astype(mx.float32) if weighted else None
    whole = search(matrix, quant, importance)
    again = search(matrix + 0, quant, importance)
    cuts = [0, 1, 2, 9, 36, 37]
    pieces = [search(matrix[a:b], quant, importance) for a, b in pairwise(cuts)]
    for i, values in enumerate(whole):
        assert mx.array_equal(values, again[i])
        assert mx.array_equal(values, mx.concatenate([p[i] for p in pieces]))


def test_shapes_strides_and_types() -> None:
    matrix, quant = weights("t4", rows=12, columns=128), Quant(32, 3)
    rows = search(matrix, quant)
    experts = search(matrix.reshape(3, 4, 128), quant)
    turned = search(mx.contiguous(matrix.T).T, quant)
    wide = search(matrix.astype(mx.float32), quant)
    for i, values in enumerate(rows):
        assert mx.array_equal(values, experts[i].reshape(values.shape))
        assert mx.array_equal(values, turned[i])
        assert mx.array_equal(values, wide[i])
    half = search(matrix.astype(mx.float16), quant)
    assert half[1].dtype == mx.bfloat16


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mxfp4"):
        search(mx.zeros((2, 64)), Quant(32, 4, "mxfp4"))


@pytest.mark.parametrize(
    "quant", [Quant(64, 2), Quant(64, 4), Quant(32, 3), Quant(128, 8)], ids=str
)
def test_what_a_gpu_runs_gives_the_same(quant: Quant, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the inner functions are compiled; here only by force."""
    matrix, importance = weights("t4"), mx.arange(1, 1025)
    plain = [search(matrix, quant), search(matrix, quant, importance)]
    for function in ("_moments", "_error"):
        compiled = mx.compile(getattr(search_module, function).__wrapped__)
        monkeypatch.setattr(search_module, function, compiled)
    for rows in (128, 5):
        again = [search(matrix[:rows], quant), search(matrix[:rows], quant, importance)]
        for made, wanted in zip(again, plain, strict=True):
            assert all(
                mx.array_equal(a, b[:rows]).item() for a, b in zip(made, wanted, strict=True)
            )
