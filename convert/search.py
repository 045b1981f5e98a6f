"""One matrix -> the codes, scales and biases of nearly the least squared error.

Knows nothing of names, files or models, and needs no data but the weights. Everything is done
in units of a group's own min-max step, from the middle of its range: so the same starts suit
every group, and no square over- or underflows.
"""

from collections.abc import Callable
from functools import reduce, wraps
from typing import NamedTuple, ParamSpec, TypeVar

import mlx.core as mx

from mlx_maverick.config import Quant

P = ParamSpec("P")
R = TypeVar("R")

# A coarse grid does better when it clips the tails, and what to clip differs from group to group.
# The search starts from the min-max range pulled in by INSET steps at both ends, and from the
# same moved by each of SHIFTS; it goes on from the best of these for REFITS more fits. Picked
# greedily among all moves by quarter steps, on Gaussian, Laplace and Student's t weights. Ten
# times the starts and fits would gain another 1 % of the error of min-max.
INSET = {2: 0.5, 3: 0.5, 4: 0.25, 5: 0.25, 6: 0.0, 8: 0.0}
SHIFTS = (0.0, -0.25, 0.25)
REFITS = 2
NO_RANGE = 1e-30  # a group narrower than this is left as mx.quantize has it


class Fit(NamedTuple):
    """Of every group: a grid that was tried, and the best grid for the codes it gave."""

    gain: mx.array  # by how much the fitted grid lowers the mean squared error of a flat one
    scale: mx.array
    center: mx.array  # the mean code: the fitted grid takes it to the mean weight
    tried_scale: mx.array
    tried_bias: mx.array


def search(
    matrix: mx.array, quant: Quant, importance: mx.array | None = None
) -> tuple[mx.array, mx.array, mx.array]:
    """Codes uint32 [..., out, in * bits / 32], scales and biases bf16 [..., out, in / group_size].

    `matrix` is a finite [..., out, in] of any float type, `in` divisible by the group size;
    `importance` [in], finite and >= 0, weighs the squared error of each input channel. Packed
    as `mx.quantize` packs, and in no group is the error of scale * code + bias above that of
    `mx.quantize`. A group whose range bf16 cannot hold gets an infinite or NaN scale or bias.

    The result is lazy; evaluating it takes 57 bytes per weight. Rows do not depend on each
    other and may come in any pieces: on a CPU half a million weights at a time go up to twice as
    fast as four million.

    Raises ValueError for a mode other than affine.
    """
    if quant.mode != "affine":
        raise ValueError(f"no search for the mode {quant.mode}: its grid is fixed")
    bits, size, levels = quant.bits, quant.group_size, 2**quant.bits - 1
    groups = mx.unflatten(matrix.astype(mx.float32), -1, (-1, size))
    weight = None if importance is None else _of_mean_one(importance, size)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    middle = low / 2 + high / 2  # the sum may overflow
    step = (high - low) / levels
    step = mx.where(step > NO_RANGE, step, 1)
    x = (groups - middle) / step

    def in_steps(scales: mx.array, biases: mx.array) -> tuple[mx.array, mx.array]:
        return scales.astype(mx.float32) / step, (biases.astype(mx.float32) - middle) / step

    mean = _mean(x, weight)
    fit = _best_fit(x, weight, mean, bits)
    scales = (fit.scale * step).astype(mx.bfloat16)
    # Rounding has moved the scale by up to 1/256: take the bias that suits the one stored.
    stored = scales.astype(mx.float32)
    biases = (middle + mean * step - stored * fit.center).astype(mx.bfloat16)

    # For a bf16 matrix mx.quantize stores bf16. Its codes are the nearest ones before that
    # rounding; with the nearest ones after it, its scales and biases do as well or better.
    _, plain_scales, plain_biases = mx.quantize(matrix.astype(mx.bfloat16), size, bits)
    plain_scales, plain_biases = plain_scales[..., None], plain_biases[..., None]
    error = _error(x, weight, *in_steps(scales, biases), levels)
    plain_error = _error(x, weight, *in_steps(plain_scales, plain_biases), levels)
    better = error < plain_error  # never of NaN, which a range beyond float32 gives
    scales = mx.where(better, scales, plain_scales)
    biases = mx.where(better, biases, plain_biases)
    codes = _codes(x, *in_steps(scales, biases), levels)
    return pack(codes.flatten(-2), bits), scales.squeeze(-1), biases.squeeze(-1)


def pack(codes: mx.array, bits: int) -> mx.array:
    """uint8 [..., n], all below 2**bits -> uint32 [..., n * bits / 32]; n divisible by 32.

    As `mx.quantize` packs: little-endian and without gaps, code i begins at bit i * bits.
    """
    used, width = bits, 8
    for dtype in (mx.uint16, mx.uint32, mx.uint64):
        codes = codes.view(dtype)  # of two neighbours, the first is the lower half
        codes = (codes & ((1 << used) - 1)) | (codes >> width << used)
        used, width = 2 * used, 2 * width
    # Eight codes are now the first `bits` bytes of a 64-bit word.
    octets = mx.unflatten(codes.view(mx.uint8), -1, (-1, 8))[..., :bits]
    return mx.contiguous(octets.flatten(-2)).view(mx.uint32)


def _best_fit(x: mx.array, weight: mx.array | None, mean: mx.array, bits: int) -> Fit:
    levels, inset = 2**bits - 1, INSET[bits]
    scale = mx.full(mean.shape, 1 - 2 * inset / levels)
    starts = (mx.full(mean.shape, inset + shift - levels / 2) for shift in SHIFTS)
    fit = best = reduce(_better, (_fit(x, weight, mean, scale, s, levels) for s in starts))
    for _ in range(REFITS):
        # Each fit goes the same way as the one before, only less far: go twice as far at once.
        scale = mx.maximum(2 * fit.scale - fit.tried_scale, fit.scale / 2)
        bias = 2 * (mean - fit.scale * fit.center) - fit.tried_bias
        fit = _fit(x, weight, mean, scale, bias, levels)
        best = _better(best, fit)
    return best


def _better(one: Fit, other: Fit) -> Fit:
    better = other.gain > one.gain
    return Fit(*(mx.where(better, b, a) for a, b in zip(one, other, strict=True)))


def _fit(
    x: mx.array,
    weight: mx.array | None,
    mean: mx.array,
    scale: mx.array,
    bias: mx.array,
    levels: int,
) -> Fit:
    """Least squares in closed form: neither weights nor codes are touched to know its error."""
    center, square, product = _moments(x, weight, scale, bias, levels)
    variance, covariance = square - center * center, product - center * mean
    # A group whose codes are all the same, but for rounding, has no best scale.
    usable = (covariance > 0) & (variance > 1e-6 * square)
    fitted = mx.where(usable, covariance / mx.where(usable, variance, 1), scale)
    gain = mx.where(usable, fitted * covariance, -1)
    return Fit(gain, fitted, center, scale, bias)


def _fused(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled on a GPU only: what MLX compiles for a CPU, where it needs a C++ compiler, takes
    six times as long as its own kernels one after the other."""
    compiled = mx.compile(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        gpu = mx.default_device().type == mx.gpu
        return (compiled if gpu else function)(*args, **kwargs)

    return run


@_fused
def _moments(
    x: mx.array, weight: mx.array | None, scale: mx.array, bias: mx.array, levels: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Means of the codes, of their squares, and of their products with `x`."""
    codes = _codes(x, scale, bias, levels).astype(mx.float32)
    weighted = codes if weight is None else codes * weight
    return _mean(weighted), _mean(weighted * codes), _mean(weighted * x)


@_fused
def _error(
    x: mx.array, weight: mx.array | None, scale: mx.array, bias: mx.array, levels: int
) -> mx.array:
    codes = _codes(x, scale, bias, levels).astype(mx.float32)
    return _mean(mx.square(x - codes * scale - bias), weight)


def _codes(x: mx.array, scale: mx.array, bias: mx.array, levels: int) -> mx.array:
    """The nearest ones, uint8. Cutting off the fraction takes half as long as mx.round."""
    inverse = 1 / scale
    return mx.clip(x * inverse + (0.5 - bias * inverse), 0, levels).astype(mx.uint8)


def _mean(values: mx.array, weight: mx.array | None = None) -> mx.array:
    return (values if weight is None else values * weight).mean(-1, keepdims=True)


def _of_mean_one(importance: mx.array, size: int) -> mx.array:
    """In every group, float32 [in / size, size]; a group of zeros counts as all alike."""
    weight = mx.unflatten(importance.astype(mx.float32), -1, (-1, size))
    mean = _mean(weight)
    return mx.where(mean > 0, weight / mx.where(mean > 0, mean, 1), 1)
