"""Taking tensors from a checkpoint: every spelling loads, every contradiction is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.errors import BadCheckpoint, MaverickError
from mlx_maverick.model import load_model

from ..golden import difference

IDS = mx.array([[7, 300, 41, 5, 900, 12]])


def tensors_of(folder: Path) -> dict[str, mx.array]:
    tensors: dict[str, mx.array] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        tensors.update(mx.load(str(shard)))
    return tensors


def saved(folder: Path, like: Path, tensors: dict[str, mx.array], **config: Any) -> Path:
    """A one-file model folder with these tensors and `like`'s config, changed by `config`."""
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    raw = json.loads((like / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def test_counts_of_the_mini(maverick_mini: Path) -> None:
    model = load_model(maverick_mini)
    index = json.loads((maverick_mini / "model.safetensors.index.json").read_text())
    assert model.parameters == index["metadata"]["total_parameters"]
    checkpoint = Checkpoint.open(maverick_mini)
    rotary = 2 * 17 * 8 * 4
    assert model.nbytes == checkpoint.memory(4) + rotary


def test_progress_counts_layers(maverick_mini: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_model(maverick_mini, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_mlx_layout_without_quantisation_loads(maverick_mini: Path, tmp_path: Path) -> None:
    """[E, out, in] experts with `.weight`, as mlx-lm writes them."""
    tensors = tensors_of(maverick_mini)
    for name in [n for n in tensors if n.endswith("gate_up_proj")]:
        gate, up = mx.split(tensors.pop(name), 2, axis=-1)
        base = name.removesuffix("gate_up_proj")
        tensors[f"{base}gate_proj.weight"] = mx.contiguous(gate.swapaxes(1, 2))
        tensors[f"{base}up_proj.weight"] = mx.contiguous(up.swapaxes(1, 2))
    for name in [n for n in tensors if n.endswith("experts.down_proj")]:
        tensors[f"{name}.weight"] = mx.contiguous(tensors.pop(name).swapaxes(1, 2))
    model = load_model(saved(tmp_path / "mlx", maverick_mini, tensors))
    assert difference(model(IDS), load_model(maverick_mini)(IDS)) <= 1e-6


def test_text_only_folders_load_and_see_nothing(maverick_mini: Path, tmp_path: Path) -> None:
    """mlx-lm drops the vision tower but leaves its config."""
    tensors = {n: a for n, a in tensors_of(maverick_mini).items() if n.startswith("language")}
    model = load_model(saved(tmp_path / "text", maverick_mini, tensors))
    assert model.vision is None
    assert difference(model(IDS), load_model(maverick_mini)(IDS)) <= 1e-6
    with pytest.raises(MaverickError, match="no vision tower"):
        model.encode_image(mx.zeros((1, 3, 56, 56)))


def test_llama4_text_names_load(maverick_mini: Path, tmp_path: Path) -> None:
    tensors = {
        n.removeprefix("language_model."): a
        for n, a in tensors_of(maverick_mini).items()
        if n.startswith("language")
    }
    folder = saved(tmp_path / "causal", maverick_mini, tensors)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw["text_config"]))
    assert difference(load_model(folder)(IDS), load_model(maverick_mini)(IDS)) <= 1e-6


def quantised(maverick_mini: Path, everything: bool) -> dict[str, mx.array]:
    """As older MLX repositories are: router and vision quantised like all else."""
    tensors = tensors_of(maverick_mini)
    for name in [n for n in tensors if "experts." in n and "shared" not in n]:
        value = tensors.pop(name).swapaxes(1, 2)
        halves = mx.split(value, 2, axis=1) if "gate_up" in name else [value]
        bases = ["gate_proj", "up_proj"] if "gate_up" in name else ["down_proj"]
        for base, half in zip(bases, halves, strict=True):
            tensors[f"{name.rsplit('.', 1)[0]}.{base}.weight"] = mx.contiguous(half)
    for name in [n for n in tensors if n.endswith(".weight")]:
        value = tensors[name]
        wanted = everything or ("vision" not in name and "router" not in name)
        if wanted and value.ndim >= 2 and value.shape[-1] % 64 == 0:
            path = name.removesuffix(".weight")
            tensors[name], tensors[f"{path}.scales"], tensors[f"{path}.biases"] = mx.quantize(
                value, 64, 4
            )
    return tensors


@pytest.mark.parametrize("everything", [False, True])
def test_quantised_folders_load(maverick_mini: Path, tmp_path: Path, everything: bool) -> None:
    folder = saved(
        tmp_path / "q",
        maverick_mini,
        quantised(maverick_mini, everything),
        quantization={"group_size": 64, "bits": 4},
    )
    model = load_model(folder)
    assert model.parameters == load_model(maverick_mini).parameters
    assert difference(model(IDS), load_model(maverick_mini)(IDS)) < 5
    assert bool(mx.all(mx.isfinite(model.encode_image(mx.zeros((1, 3, 56, 56))))))


def test_shapes_decide_where_config_only_gives_a_default(
    maverick_mini: Path, tmp_path: Path
) -> None:
    tensors = quantised(maverick_mini, everything=False)
    right = saved(
        tmp_path / "a", maverick_mini, tensors, quantization={"group_size": 64, "bits": 4}
    )
    wrong = saved(
        tmp_path / "b", maverick_mini, tensors, quantization={"group_size": 32, "bits": 8}
    )
    assert difference(load_model(right)(IDS), load_model(wrong)(IDS)) == 0


def test_an_override_that_contradicts_the_shape_is_refused(
    maverick_mini: Path, tmp_path: Path
) -> None:
    settings = {
        "group_size": 64,
        "bits": 4,
        "language_model.lm_head": {"group_size": 64, "bits": 8},
    }
    folder = saved(
        tmp_path / "q", maverick_mini, quantised(maverick_mini, False), quantization=settings
    )
    with pytest.raises(BadCheckpoint, match="language_model.lm_head"):
        load_model(folder)


def test_overrides_of_text_only_folders_are_found(maverick_mini: Path, tmp_path: Path) -> None:
    """Their paths lack `language_model.`, like their tensors."""
    tensors = {
        n.removeprefix("language_model."): a
        for n, a in quantised(maverick_mini, False).items()
        if n.startswith("language")
    }
    settings = {"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 8}}
    folder = saved(tmp_path / "q", maverick_mini, tensors, quantization=settings)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(raw["text_config"] | {"quantization": raw["quantization"]})
    )
    with pytest.raises(BadCheckpoint, match="lm_head"):
        load_model(folder)


def test_quantised_tensors_need_their_config(maverick_mini: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "q", maverick_mini, quantised(maverick_mini, False))
    with pytest.raises(BadCheckpoint, match="no 'quantization'"):
        load_model(folder)


def test_missing_left_over_and_misshapen_tensors_are_named(
    maverick_mini: Path, tmp_path: Path
) -> None:
    name = "language_model.model.layers.3.self_attn.k_proj.weight"
    tensors = tensors_of(maverick_mini)
    lacking = {n: a for n, a in tensors.items() if n != name}
    with pytest.raises(BadCheckpoint, match=f"lacks {name}"):
        load_model(saved(tmp_path / "lacking", maverick_mini, lacking))
    with pytest.raises(BadCheckpoint, match=rf"{name} has shape \[32, 128\].*asks for \[64, 128\]"):
        load_model(saved(tmp_path / "shape", maverick_mini, tensors | {name: tensors[name][:32]}))
    with pytest.raises(BadCheckpoint, match="1 tensors.*language_model.stray"):
        extra = tensors | {"language_model.stray": mx.zeros(3)}
        load_model(saved(tmp_path / "extra", maverick_mini, extra))


def test_a_format_to_convert_from_is_not_run(maverick_mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fp8"
    shutil.copytree(maverick_mini, folder)
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(BadCheckpoint, match="mlx-maverick convert"):
        load_model(folder)
