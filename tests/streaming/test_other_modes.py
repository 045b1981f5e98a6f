"""Experts that other tools have quantised in another mode than affine: their scales are bytes,
and there are no biases."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.cli.bench_offloaded import Mapped
from mlx_maverick.model.experts import MoE, go_on

from .drive import ask, ids, resident, said, streamed

MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}


@pytest.fixture
def mxfp4(e4r4: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(e4r4, tmp_path / "mxfp4")
    file, settings = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)
    mx.eval(loaded)
    for name in [n for n in loaded if ".experts." in n and n.endswith(".weight")]:
        path, quant = name.removesuffix(".weight"), settings["quantization"]
        scales, biases = loaded[f"{path}.scales"], loaded.pop(f"{path}.biases")
        width = {key: quant[key] for key in ("group_size", "bits")}
        values = mx.dequantize(loaded[name], scales, biases, **width).astype(mx.float32)
        loaded[name], loaded[f"{path}.scales"] = mx.quantize(
            values, group_size=32, bits=4, mode="mxfp4"
        )
        quant[path] = MXFP4
    mx.eval(loaded)
    mx.save_safetensors(str(file), loaded, {"format": "mlx"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_they_are_streamed_to_the_bit(mxfp4: Path) -> None:
    prompt, whole = ids(80), resident(mxfp4)
    for part in (0.0, 1.0):
        assert said(ask(streamed(mxfp4, part), prompt)) == said(ask(whole, prompt))


def test_the_imitation_of_mapping_computes_the_same(mxfp4: Path) -> None:
    mapped, whole = Mapped(str(mxfp4), 16, 10**6).model, resident(mxfp4).model
    rows = mx.random.normal((3, whole.config.text.hidden_size))
    found = []
    for model in (mapped, whole):
        moe = model.text.layers[whole.config.text.moe_layers.index(True)].feed_forward
        assert isinstance(moe, MoE)
        (out,) = moe.experts.steps([(rows, mx.array([1, 0, 1]))], [], [rows], go_on)
        found.append(np.array(out))
    assert np.allclose(*found, atol=1e-6)
    assert np.abs(found[1]).max() > 1e-3
