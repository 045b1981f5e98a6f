"""Routing: one expert for each token, its input scaled, rows in their order again."""

import mlx.core as mx
import pytest

from mlx_maverick.model import Llama4
from mlx_maverick.model.experts import SORT_FROM, MoE

from ..golden import difference


def moe(model: Llama4) -> MoE:
    layer = model.text.layers[1].feed_forward
    assert isinstance(layer, MoE)
    return layer


@pytest.mark.parametrize("rows", [1, 5, SORT_FROM, SORT_FROM + 37])
def test_rows_do_not_depend_on_their_neighbours(model: Llama4, rows: int) -> None:
    """Sorted by expert or not, each row gets what it gets alone."""
    layer = moe(model)
    x = mx.random.normal((1, rows, model.config.text.hidden_size), key=mx.random.key(rows))
    together = layer(x)
    alone = mx.concatenate([layer(x[:, i : i + 1]) for i in range(rows)], axis=1)
    assert difference(together, alone) <= 1e-5


def test_the_sigmoid_scales_the_experts_input(model: Llama4) -> None:
    layer = moe(model)
    x = mx.random.normal((1, 3, model.config.text.hidden_size), key=mx.random.key(0))
    rows = x[0]
    logits = layer.router(rows)
    chosen = mx.argmax(logits, axis=-1)
    score = mx.sigmoid(mx.take_along_axis(logits, chosen[:, None], axis=-1))
    wanted = layer.experts(rows * score, chosen) + layer.shared_expert(rows)
    scaled_output = layer.experts(rows, chosen) * score + layer.shared_expert(rows)
    assert difference(layer(x)[0], wanted) <= 1e-6
    assert difference(layer(x)[0], scaled_output) > 1e-4


def test_several_experts_are_used(model: Llama4) -> None:
    """Else the tests above would prove little."""
    x = mx.random.normal((64, model.config.text.hidden_size), key=mx.random.key(3))
    assert len(set(mx.argmax(moe(model).router(x), axis=-1).tolist())) > 2
