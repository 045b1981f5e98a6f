"""`mlx-maverick show` on folders of every kind, the largest of full size."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick import memory
from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.cli import show
from mlx_maverick.cli.main import main
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe

GIB = 2**30
REFERENCE = Path(__file__).parents[1] / "reference"
SIZES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U32": 4}
Stored = dict[str, tuple[str, list[int]]]  # dtype and shape by name

# What differs from maverick-mini's config.json at full size, as published.
FULL_TEXT = {
    "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120, "intermediate_size": 8192,
    "intermediate_size_mlp": 16384, "num_attention_heads": 40, "num_hidden_layers": 48,
    "num_key_value_heads": 8, "num_local_experts": 128, "vocab_size": 202048,
}  # fmt: skip
FULL_VISION = {
    "hidden_size": 1408, "image_size": 336, "intermediate_size": 5632, "num_attention_heads": 16,
    "num_hidden_layers": 34, "projector_input_dim": 4096, "projector_output_dim": 4096,
    "vision_output_dim": 4096,
}  # fmt: skip


def mini_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((REFERENCE / "maverick-mini/config.json").read_text())
    return config


def full_config() -> dict[str, Any]:
    config = mini_config()
    config["text_config"] |= FULL_TEXT
    config["vision_config"] |= FULL_VISION
    return config


def write_folder(
    folder: Path, config: dict[str, Any], tensors: Stored, shard_bytes: int = 15 * 10**9
) -> None:
    """Headers as they would be, and as many bytes behind them without storing any (holes)."""
    shards: list[Stored] = [{}]
    size = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = math.prod(shape) * SIZES[dtype]
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = (dtype, shape)
        size += nbytes
    folder.mkdir()
    weight_map = {}
    for i, shard in enumerate(shards):
        file = folder / f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        header, end = {}, 0
        for name, (dtype, shape) in shard.items():
            start, end = end, end + math.prod(shape) * SIZES[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
            weight_map[name] = file.name
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(file, 8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def bf16(shapes: dict[str, list[int]]) -> Stored:
    return {name: ("BF16", shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def full_shapes() -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = json.loads((REFERENCE / "maverick-tensors.json").read_text())
    return shapes


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory, full_shapes: dict[str, list[int]]) -> Path:
    folder = tmp_path_factory.mktemp("full") / "Llama-4-Maverick"
    write_folder(folder, full_config(), bf16(full_shapes))
    return folder


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "mini-e4r6"
    convert(REFERENCE / "maverick-mini", folder, "e4r6", lambda progress: None)
    return folder


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 512 GB Mac with the stock limit: bf16 on the GPU, as far as `show` can tell."""
    monkeypatch.setattr(memory, "machine_limit", lambda: 464 * GIB)
    monkeypatch.setattr("mlx_maverick.model.llama4.default_dtype", lambda: mx.bfloat16)
    reading = memory.Reading(512 * GIB, 0, 512 * GIB, 0, memory.Pressure.NORMAL)
    monkeypatch.setattr(memory.pressure, "read", lambda: reading)


def words(text: str) -> list[str]:
    """Lines with single spaces: what is said, without its alignment."""
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.usefixtures("mac")
def test_full_size(full_size: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(full_size)]) == 0
    lines = words(capsys.readouterr().out)
    assert lines[0] == str(full_size)
    assert "model Llama 4, 48 layers, 24 of them with 128 experts, with vision" in lines
    assert "attention chunks of 8,192, up to 1,048,576 tokens" in lines
    assert "format BF16, as published" in lines
    assert "parameters 401.58 B" in lines
    files = len(list(full_size.glob("*.safetensors")))
    assert files > 40
    assert f"on disk 803.2 GB in {files} files" in lines
    assert "routed experts 386.55 B 16.00 773.1 GB" in lines
    assert "attention 3.02 B 16.00 6.0 GB" in lines
    assert "router 15.73 M 16.00 31.5 MB" in lines
    assert "KV cache 2.8 GB" in lines
    assert "this machine 498.2 GB" in lines
    assert "does not fit: convert it with the smaller recipe e8r8 (427.5 GB)" in lines
    assert "e4r4 227.2 GB" in lines
    assert not any(line.startswith("other") for line in lines)


@pytest.mark.usefixtures("mac")
def test_full_size_as_json(full_size: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--model", str(full_size), "--context", "1048576", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == 401_583_781_376
    assert facts["format"] == "published"
    assert facts["vision"] is True
    assert sum(share["parameters"] for share in facts["classes"]) == facts["parameters"]
    assert sum(share["nbytes"] for share in facts["classes"]) == 2 * facts["parameters"]
    need = facts["need"]
    assert need["context"] == 1048576
    assert need["weights"] == 2 * facts["parameters"]
    assert need["kv"] / GIB == pytest.approx(49.1, abs=0.05)
    assert need["total"] == need["weights"] + need["kv"] + need["working"]
    assert need["fits"] is False
    assert need["streamed"] is None  # its experts are as they were published
    assert facts["recipes"]["e4r4"] / 1e9 == pytest.approx(227.17, abs=0.01)
    assert facts["maverick"] == {}


def test_quantised(quantised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(quantised)]) == 0
    lines = words(capsys.readouterr().out)
    assert "format MLX quantised (affine, by default 6 bits in groups of 64)" in lines
    assert "parameters 4.66 M" in lines
    assert "recipe e4r6" in lines
    assert "source folder maverick-mini, form BF16" in lines
    assert "fits" in lines
    assert "converted it would come to" not in lines


def test_what_can_be_streamed(
    quantised: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is read but headers: the SSD's speed is assumed."""
    show = ["show", str(quantised), "--context", "128"]
    assert main([*show, "--json"]) == 0
    need = json.loads(capsys.readouterr().out)["need"]
    assert (need["fits"], need["streamed"]) == (True, None)
    limit = need["total"] - 1
    monkeypatch.setattr(memory, "machine_limit", lambda: limit)
    assert main([*show, "--json"]) == 0
    need = json.loads(capsys.readouterr().out)["need"]
    assert (need["fits"], need["machine_limit"]) == (False, limit)
    assert need["streamed"]["memory"] == limit
    assert need["streamed"]["ssd_source"] == "assumed"
    # A byte too little for all, and what 128 tokens hold beside it where experts are streamed.
    assert 0.5 < need["streamed"]["share"] < 1
    assert main(show) == 0
    last = words(capsys.readouterr().out)[-1]
    assert last.startswith(f"streamed: {need['streamed']['share'] * 100:.0f} % of its experts in ")
    assert "(5.0 GB/s, assumed)" in last
    # A prompt of 8,192 tokens holds more than all of these few experts take.
    assert main(["show", str(quantised), "--context", "8192", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["need"]["streamed"] is None


def test_quantised_counts_weights_and_not_words(quantised: Path, maverick_mini: Path) -> None:
    before, after = show.describe(maverick_mini), show.describe(quantised)
    assert after.parameters == before.parameters == 4_655_808
    for old, new in zip(before.classes, after.classes, strict=True):
        assert (old.name, old.parameters) == (new.name, new.parameters)
    bits = {share.name: share.bits_per_weight for share in after.classes}
    assert bits["routed experts"] == 4.5
    assert bits["attention"] == bits["lm_head"] == 6.5
    assert bits["router"] == bits["vision"] == 16
    assert after.format == "mlx-quantised"
    assert after.recipes == {}


@pytest.mark.parametrize("name", ["e4r4", "e4r6"])
def test_what_a_recipe_would_come_to_is_what_it_comes_to(
    mini: Path, tmp_path: Path, name: str
) -> None:
    convert(mini, tmp_path / name, name, lambda progress: None)
    said = show.describe(mini).recipes[name]
    assert said == Checkpoint.open(tmp_path / name).nbytes
    assert said == memory.recipe_bytes(ModelConfig.from_folder(mini), Recipe.named(name))


def quantised_linear(tmp_path: Path, section: dict[str, Any], stored_bits: int) -> Path:
    """A folder with one quantised projection and nothing else, text only."""
    path = "model.layers.0.self_attn.q_proj"
    weight, scales, biases = mx.quantize(mx.zeros((64, 128)), group_size=64, bits=stored_bits)
    mx.save_safetensors(
        str(tmp_path / "model.safetensors"),
        {f"{path}.weight": weight, f"{path}.scales": scales, f"{path}.biases": biases},
    )
    text = mini_config()["text_config"] | {"model_type": "llama4_text", "quantization": section}
    (tmp_path / "config.json").write_text(json.dumps(text))
    return tmp_path


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
def test_text_only_folder_with_other_bits_than_the_default(tmp_path: Path, bits: int) -> None:
    facts = show.describe(quantised_linear(tmp_path, {"group_size": 64, "bits": 4}, bits))
    (share,) = facts.classes
    assert (share.name, share.parameters, share.tensors) == ("attention", 64 * 128, 3)
    assert facts.parameters == 64 * 128
    assert facts.vision is False


def test_a_path_that_is_not_stored_as_config_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"model.layers.0.self_attn.q_proj": {"group_size": 64, "bits": 6}}
    folder = quantised_linear(tmp_path, {"group_size": 64, "bits": 4, **named}, 4)
    assert main(["show", str(folder)]) == 1
    assert "q_proj has shape [64, 16] with scales [64, 2]" in capsys.readouterr().err


def test_a_quantised_folder_whose_config_does_not_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantised_linear(tmp_path, {"group_size": 64, "bits": 4}, 4)
    text = json.loads((folder / "config.json").read_text())
    del text["quantization"]
    (folder / "config.json").write_text(json.dumps(text))
    assert main(["show", str(folder)]) == 1
    assert "config.json has no 'quantization'" in capsys.readouterr().err


def test_fp8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = "language_model.model.layers.1.feed_forward"
    tensors: Stored = {
        f"{base}.experts.0.gate_proj.weight": ("F8_E4M3", [128, 128]),
        f"{base}.experts.0.gate_proj.weight_scale": ("F32", [128, 1]),
        f"{base}.router.weight": ("BF16", [16, 128]),
    }
    config = mini_config() | {"quantization_config": {"quant_method": "compressed-tensors"}}
    write_folder(tmp_path / "fp8", config, tensors)
    assert main(["show", str(tmp_path / "fp8")]) == 0
    lines = words(capsys.readouterr().out)
    assert "format FP8 compressed-tensors" in lines
    assert "parameters 18.43 K" in lines  # 128 * 128 + 16 * 128: scales are not weights
    assert "cannot be run as it is; it is a format to convert from" in lines
    facts = show.describe(tmp_path / "fp8")
    assert (facts.format, facts.need) == ("foreign", None)
    assert list(facts.recipes)[:2] == ["e2g128r4", "e2r4"]


def test_unknown_tensors_are_other_and_names_are_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors: Stored = {
        "language_model.lm_head.weight": ("BF16", [1024, 128]),
        "rotary.inv_freq": ("F32", [64]),
    }
    folder = tmp_path / "a\x1b]0;owned\x07b"
    write_folder(folder, mini_config(), tensors)
    (folder / "maverick.json").write_text(json.dumps({"recipe": {"name": "e4\x1b[31mr4"}}))
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    lines = words(out)
    assert "other 64 32.00 0.3 kB" in lines
    assert "format MLX, BF16, not quantised" in lines
    assert "model Llama 4, 8 layers, 4 of them with 16 experts, no vision" in lines


def test_default_context_is_capped_by_the_model(tmp_path: Path) -> None:
    config = mini_config()
    config["text_config"]["max_position_embeddings"] = 4096
    write_folder(tmp_path / "m", config, {"language_model.lm_head.weight": ("BF16", [1024, 128])})
    need = show.describe(tmp_path / "m").need
    assert need is not None
    assert need.context == 4096


def test_memory_with_another_kv_cache(
    maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = []
    for options in ([], ["--kv-bits", "8"], ["--kv-bits", "8", "--max-kv-size", "1024"]):
        assert main(["show", str(maverick_mini), "--json", *options]) == 0
        needs.append(json.loads(capsys.readouterr().out)["need"]["kv"])
    assert needs == sorted(set(needs), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give one model folder"),
        (["MINI", "--model", "MINI"], 2, "give one model folder"),
        (["MINI", "--context", "0"], 2, "--context 0"),
        (["MINI", "--context", "1048577"], 2, "1 to 1048576"),
        (["/no/such/folder"], 3, "/no/such/folder does not exist"),
        (["EMPTY"], 3, "is it a model folder?"),
    ],
)
def test_errors(
    arguments: list[str],
    code: int,
    said: str,
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"MINI": str(maverick_mini), "EMPTY": str(tmp_path)}
    assert main(["show", *(places.get(word, word) for word in arguments)]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_home_is_expanded(
    monkeypatch: pytest.MonkeyPatch, maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(maverick_mini.parent))
    assert main(["show", "~/maverick-mini"]) == 0
    assert capsys.readouterr().out.startswith(str(maverick_mini))


def test_help_does_not_load_mlx() -> None:
    code = (
        "import sys; from mlx_maverick.cli import show;"
        "sys.exit(any(m.split('.')[0] in ('mlx', 'textual') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
