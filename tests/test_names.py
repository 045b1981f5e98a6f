"""Tensor names: every tensor of the full checkpoint has its class."""

import json
from collections import Counter

import pytest

from mlx_maverick.names import TensorClass, canonical, tensor_class

from .golden import REFERENCE


def test_every_published_tensor_has_a_class() -> None:
    names = json.loads((REFERENCE / "maverick-tensors.json").read_text())
    counts = Counter(tensor_class(name) for name in names)
    assert None not in counts
    assert counts[TensorClass.EXPERTS] == 24 * 2
    assert counts[TensorClass.SHARED] == 24 * 3
    assert counts[TensorClass.DENSE] == 24 * 3
    assert counts[TensorClass.ATTENTION] == 48 * 4
    assert counts[TensorClass.ROUTER] == 24
    assert counts[TensorClass.NORM] == 48 * 2 + 1
    assert counts[TensorClass.EMBED] == counts[TensorClass.LM_HEAD] == 1
    assert counts[TensorClass.PROJECTOR] == 1


@pytest.mark.parametrize("name", ["", "lm_head", "model.layers.0.mlp.up_proj.weight"])
def test_others_have_none(name: str) -> None:
    assert tensor_class(name) is None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("lm_head", "language_model.lm_head"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("vision_model.class_embedding", "vision_model.class_embedding"),
    ],
)
def test_canonical(name: str, wanted: str) -> None:
    assert canonical(name) == wanted
