"""Where experts are in files: the bytes there are theirs, and folders without are refused."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import convert
from mlx_maverick.errors import BadCheckpoint, UsageError
from mlx_maverick.streaming.places import LayerPlaces, expert_tensors, places

from ..convert import damage, forms
from .full_size import converted


@pytest.fixture(scope="module")
def folder(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maverick-mini at 4 bits."""
    return convert(maverick_mini, tmp_path_factory.mktemp("places") / "model", "e4r4").folder


def found(folder: Path) -> tuple[LayerPlaces, ...]:
    return places(Checkpoint.open(folder), ModelConfig.from_folder(folder))


def test_bytes_of_every_expert(folder: Path) -> None:
    loaded: dict[str, mx.array] = {}
    for file in folder.glob("*.safetensors"):
        loaded |= mx.load(str(file))
    seen = 0
    for layer in found(folder):
        for projection in layer.projections:
            for part in projection.parts:
                name = f"language_model.model.layers.{layer.layer}.feed_forward.experts"
                array = loaded[f"{name}.{projection.name}.{part.kind}"]
                assert array.shape == (layer.experts, *part.shape)
                bits = array.view(mx.uint16) if part.floating else array
                data = part.tensor.file.read_bytes()
                for expert in range(layer.experts):
                    start = part.tensor.offset + expert * part.nbytes
                    wanted = np.array(bits[expert]).tobytes()
                    assert data[start : start + part.nbytes] == wanted
                    seen += part.nbytes
    assert seen == sum(
        t.nbytes for name, t in Checkpoint.open(folder).tensors.items() if ".experts." in name
    )


def test_what_is_known_of_a_layer(folder: Path) -> None:
    layers = found(folder)
    text = ModelConfig.from_folder(folder).text
    assert [layer.layer for layer in layers] == [1, 3, 5, 7]
    assert {layer.experts for layer in layers} == {text.num_local_experts}
    hidden, inner = text.hidden_size, text.intermediate_size
    shapes = {
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    for layer in layers:
        assert {p.name: p.shape for p in layer.projections} == shapes
        assert all(p.quant == Quant(64, 4) for p in layer.projections)
        assert [part.kind for part in layer.parts] == ["weight", "scales", "biases"] * 3
        assert [part.floating for part in layer.parts] == [False, True, True] * 3
        assert layer.parameters == layer.experts * 3 * hidden * inner
        # 4 bits a weight, and for 64 of them two values.
        assert layer.memory(2) == 3 * hidden * inner * (4 + 2 * 16 / 64) / 8
        assert layer.memory(4) == 3 * hidden * inner * (4 + 2 * 32 / 64) / 8
    assert len({layer.form for layer in layers}) == 1


def test_forms_are_told_apart() -> None:
    rules = ("routed@3=6", "routed@5=4g32", "routed_down@7=8", "routed@9=bf16")
    layers = places(*converted("e4r4", *rules))
    alike = [layer.form == layers[0].form for layer in layers]
    assert [layer.layer for layer, same in zip(layers, alike, strict=True) if not same] == [
        3, 5, 7, 9,
    ]  # fmt: skip
    assert len({layer.form for layer in layers}) == 5
    quants = [[p.quant for p in layer.projections] for layer in layers[:5]]
    assert quants[1] == [Quant(64, 6)] * 3
    assert quants[2] == [Quant(32, 4)] * 3
    assert quants[3] == [Quant(64, 4), Quant(64, 4), Quant(64, 8)]
    assert quants[4] == [None] * 3
    assert layers[4].memory(2) == 3 * 5120 * 8192 * 2
    assert layers[4].memory(4) == 3 * 5120 * 8192 * 4


def test_other_names(folder: Path, tmp_path: Path) -> None:
    """As folders of text alone have them."""
    checkpoint = Checkpoint.open(folder)
    renamed = {name.removeprefix("language_model."): t for name, t in checkpoint.tensors.items()}
    config = ModelConfig.from_folder(folder)
    assert places(Checkpoint(folder, renamed), config) == found(folder)
    assert len(expert_tensors(checkpoint)) == 4 * 9


@pytest.mark.parametrize("form", ["bf16", "compressed"])
def test_published_folders_are_to_be_converted(
    maverick_mini: Path, tmp_path: Path, form: str
) -> None:
    folder = maverick_mini
    if form == "compressed":
        folder = forms.make("compressed", maverick_mini, tmp_path / "fp8")
    with pytest.raises(UsageError, match=r"experts as they are published .* convert' on it"):
        found(folder)


GATE = "language_model.model.layers.3.feed_forward.experts.gate_proj"
Stored = damage.Stored


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        ("weight", lambda t: None, "lacks .*3.*gate_proj.weight"),
        ("biases", lambda t: None, "lacks .*3.*gate_proj.biases"),
        ("scales", lambda t: None, "has shape .* but config.json asks for"),
        ("weight", lambda t: one_less(t), "weight has shape .* but config.json asks for"),
        ("biases", lambda t: one_less(t), "biases has shape .* but config.json asks for"),
        ("weight", lambda t: t._replace(dtype="I32"), "weight is I32, and not one of U32"),
        ("scales", lambda t: t._replace(dtype="I16"), "scales is I16, and not one of BF16, "),
        ("biases", lambda t: Stored("F64", t.shape, t.data * 4), "biases is F64, and not one of"),
        ("weight", lambda t: Stored("U32", (), t.data[:4]), "gate_proj"),
        ("scales", lambda t: Stored("BF16", (), t.data[:2]), "gate_proj"),
    ],
)
def test_damaged_folders(
    folder: Path,
    tmp_path: Path,
    part: str,
    change: Callable[[Stored], Stored | None],
    why: str,
) -> None:
    copy = damage.copy(folder, tmp_path / "copy")
    name = f"{GATE}.{part}"
    (old,) = (held[name] for held in map(damage.read, copy.glob("*.safetensors")) if name in held)
    damage.change(copy, {name: change(old)})
    with pytest.raises(BadCheckpoint, match=why):
        found(copy)


def one_less(tensor: Stored) -> Stored:
    """The same without its last expert."""
    experts, *rest = tensor.shape
    return Stored(tensor.dtype, (experts - 1, *rest), tensor.data[: -len(tensor.data) // experts])
