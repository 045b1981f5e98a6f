"""The whole network against the golden outputs of an independent implementation."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.model import Llama4, load_model

from ..golden import TOLERANCE, Golden, difference, same_logits

STEPS = (1, 7, 31, 32, 33, 64, 100)


def test_text_logits_match_the_reference(model: Llama4, golden: Golden) -> None:
    cases = golden.cases("text")
    assert cases
    for case in cases:
        ids, wanted = golden[f"{case['name']}.input_ids"], golden[f"{case['name']}.logits"]
        same_logits(model(ids[None])[0, -wanted.shape[0] :], wanted)


@pytest.mark.parametrize("step", STEPS)
def test_any_prefill_step_then_decoding_matches(model: Llama4, golden: Golden, step: int) -> None:
    """Prefill in steps of any size, then token by token across chunk boundaries."""
    longest = max(golden.cases("text"), key=lambda case: case["tokens"])
    ids, wanted = golden[f"{longest['name']}.input_ids"], golden[f"{longest['name']}.logits"]
    cache = model.make_cache()
    prefilled = len(ids) // 2
    rows = [
        model(ids[None, at : min(at + step, prefilled)], cache=cache)[0]
        for at in range(0, prefilled, step)
    ]
    assert cache.length == prefilled
    rows += [model(ids[None, at : at + 1], cache=cache)[0] for at in range(prefilled, len(ids))]
    same_logits(mx.concatenate(rows)[-wanted.shape[0] :], wanted)


def test_picture_features_and_logits_match(model: Llama4, golden: Golden) -> None:
    cases = golden.cases("image")
    assert cases
    for case in cases:
        name = case["name"]
        pixels = golden[f"{name}.pixel_values"]
        features = model.encode_image(pixels)
        assert difference(features, golden[f"{name}.features"]) <= TOLERANCE
        logits = model(golden[f"{name}.input_ids"][None], pixels)[0, -1]
        same_logits(logits[None], golden[f"{name}.logits_last"][None])


def test_two_pictures_keep_their_order(model: Llama4, golden: Golden) -> None:
    [case] = golden.cases("images")
    first, second = (golden[f"image_{i:02d}.pixel_values"] for i in range(2))
    ids, wanted = golden["two_images.input_ids"][None], golden["two_images.logits_last"]
    same_logits(model(ids, mx.concatenate([first, second]))[:, -1], wanted[None])
    swapped = model(ids, mx.concatenate([second, first]))[0, -1]
    assert difference(swapped, wanted) > 10 * TOLERANCE
    assert case["files"]


def test_the_picture_matters(model: Llama4, golden: Golden) -> None:
    ids, pixels = golden["image_03.input_ids"][None], golden["image_03.pixel_values"]
    wanted = golden["image_03.logits_last"]
    assert difference(model(ids, mx.zeros_like(pixels))[0, -1], wanted) > 10 * TOLERANCE
    # Each tile has its place, and the global one its own.
    assert difference(model(ids, pixels[::-1])[0, -1], wanted) > 10 * TOLERANCE


def test_pixels_may_be_numpy(model: Llama4, golden: Golden) -> None:
    pixels = np.array(golden["image_00.pixel_values"].astype(mx.float32))
    assert difference(model.encode_image(pixels), golden["image_00.features"]) <= TOLERANCE


def test_a_batch_is_its_rows(model: Llama4, golden: Golden) -> None:
    ids = golden["text_5.input_ids"]
    rows = mx.stack([ids, ids[::-1]])
    together = model(rows)
    for i in range(2):
        assert difference(together[i], model(rows[i : i + 1])[0]) <= 1e-5


def test_pictures_and_placeholders_must_agree(model: Llama4, golden: Golden) -> None:
    with_one = golden["image_00.input_ids"][None]
    pixels = golden["image_00.pixel_values"]
    with pytest.raises(UsageError, match="0 picture features for 4 patch positions"):
        model(with_one)
    with pytest.raises(UsageError, match="8 picture features for 4"):
        model(with_one, mx.concatenate([pixels, pixels]))
    with pytest.raises(UsageError, match=r"not \[N, 3, 56, 56\]"):
        model(with_one, pixels[:, :, :28])


@pytest.mark.parametrize("shape", [(0,), (1, 0), (5,)])
def test_input_ids_need_a_batch_and_a_token(model: Llama4, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="input_ids"):
        model(mx.zeros(shape, dtype=mx.int32))


def test_bf16_stays_close(maverick_mini: Path) -> None:
    """The GPU's compute type, where this backend has kernels for it: the vision tower."""
    golden = Golden(maverick_mini)
    model = load_model(maverick_mini, dtype=mx.bfloat16)
    features = model.encode_image(golden["image_03.pixel_values"])
    assert features.dtype == mx.bfloat16
    wanted = golden["image_03.features"]
    assert difference(features, wanted) <= 0.05 * float(mx.abs(wanted).max())
