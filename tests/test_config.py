"""config.json in every published spelling, and errors that name the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.errors import BadCheckpoint, NotFound


@pytest.fixture
def raw(maverick_mini: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((maverick_mini / "config.json").read_text())
    return loaded


def parsed(raw: dict[str, Any], **text: Any) -> ModelConfig:
    return ModelConfig.from_dict(raw | {"text_config": raw["text_config"] | text})


def test_the_published_spelling_leaves_constants_out(raw: dict[str, Any]) -> None:
    for key in ("attn_temperature_tuning", "floor_scale", "attn_scale", "no_rope_layers"):
        raw["text_config"].pop(key, None)
    text = ModelConfig.from_dict(raw).text
    assert (text.attn_temperature_tuning, text.floor_scale, text.attn_scale) == (True, 8192, 0.1)
    assert [i for i, rope in enumerate(text.rope_layers) if not rope] == [3, 7]
    assert text.chunked_layers == text.rope_layers
    assert [i for i, moe in enumerate(text.moe_layers) if moe] == [1, 3, 5, 7]
    assert text.rope_theta == 500000
    assert text.rope_scaling is None


def test_re_saved_copies_list_layers(raw: dict[str, Any]) -> None:
    text = parsed(
        raw,
        no_rope_layers=[1, 0, 1, 1, 1, 0, 1, 1],
        moe_layers=[0, 5],
        layer_types=["chunked_attention"] * 3 + ["full_attention"] * 5,
    ).text
    assert [i for i, rope in enumerate(text.rope_layers) if not rope] == [1, 5]
    assert [i for i, moe in enumerate(text.moe_layers) if moe] == [0, 5]
    assert sum(text.chunked_layers) == 3


def test_empty_lists_mean_the_default(raw: dict[str, Any]) -> None:
    """transformers saves `no_rope_layers: []` for models that never set it."""
    assert parsed(raw, no_rope_layers=[]).text.rope_layers[3] is False
    assert sum(parsed(raw, moe_layers=[]).text.moe_layers) == 0
    assert sum(parsed(raw, moe_layers=None).text.moe_layers) == 4


@pytest.mark.parametrize("key", ["no_rope_layer_interval", "nope_layer_interval"])
def test_the_interval_of_nope_layers(raw: dict[str, Any], key: str) -> None:
    text = parsed(raw, **{key: 2}).text
    assert [i for i, rope in enumerate(text.rope_layers) if not rope] == [1, 3, 5, 7]


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_in_both_spellings(raw: dict[str, Any], key: str) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }
    text = parsed(raw, **{"rope_scaling": None, key: scaling}).text
    assert text.rope_scaling is not None
    assert text.rope_scaling.factor == 16
    assert text.rope_scaling.original_max_position_embeddings == 8192


def test_rope_parameters_hold_theta(raw: dict[str, Any]) -> None:
    del raw["text_config"]["rope_theta"]
    del raw["text_config"]["rope_scaling"]
    text = parsed(raw, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}).text
    assert text.rope_theta == 10000
    assert text.rope_scaling is None


def test_scout(scout_mini: Path) -> None:
    text = ModelConfig.from_folder(scout_mini).text
    assert all(text.moe_layers)
    assert text.use_qk_norm
    assert text.rope_scaling is not None


def test_text_only_models(raw: dict[str, Any]) -> None:
    config = ModelConfig.from_dict(raw["text_config"])
    assert config.vision is None
    assert config.text == ModelConfig.from_dict(raw).text


def test_without_chunks_everything_is_one(raw: dict[str, Any]) -> None:
    text = parsed(raw, attention_chunk_size=None).text
    assert text.attention_chunk_size == text.max_position_embeddings


def test_quantisation_with_overrides(raw: dict[str, Any]) -> None:
    raw["quantization"] = {
        "group_size": 64,
        "bits": 4,
        "a.b": {"group_size": 32, "bits": 8},
        "a.c": False,
    }
    quantization = ModelConfig.from_dict(raw).quantization
    assert quantization is not None
    assert quantization.of("elsewhere") == Quant(64, 4)
    assert quantization.of("a.b") == Quant(32, 8)
    assert quantization.of("a.c") is None


@pytest.mark.parametrize("where", ["top", "text_config"])
def test_a_foreign_quantisation_is_noted(raw: dict[str, Any], where: str) -> None:
    section = raw if where == "top" else raw["text_config"]
    section["quantization_config"] = {"quant_method": "compressed-tensors"}
    assert ModelConfig.from_dict(raw).source_quantization == "compressed-tensors"


def test_what_mlx_wrote_under_both_names_is_not_foreign(raw: dict[str, Any]) -> None:
    raw["quantization"] = raw["quantization_config"] = {"group_size": 64, "bits": 4}
    assert ModelConfig.from_dict(raw).source_quantization is None


def test_another_model_is_a_named_error(raw: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match=r"'qwen3'.*Llama 4"):
        ModelConfig.from_dict({"model_type": "qwen3"})
    with pytest.raises(BadCheckpoint, match="None"):
        ModelConfig.from_dict({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("num_hidden_layers", "8"),
        ("num_attention_heads", -1),
        ("vocab_size", 1.5),
        ("head_dim", True),
        ("num_experts_per_tok", 2),
        ("hidden_act", "relu"),
        ("no_rope_layers", [1, 0]),
        ("layer_types", ["sliding_attention"] * 8),
        ("moe_layers", [8]),
        ("num_hidden_layers", 10**9),
        ("rope_scaling", {"rope_type": "yarn"}),
        ("rope_scaling", {"factor": {"rope_type": "llama3"}}),
        ("rope_scaling", {"rope_type": "llama3"}),
    ],
)
def test_errors_name_the_key(raw: dict[str, Any], key: str, value: Any) -> None:
    named = "rope_type|factor" if key == "rope_scaling" else key
    with pytest.raises(BadCheckpoint, match=rf"text_config.*({named})"):
        parsed(raw, **{key: value})


def test_errors_of_sections(raw: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="text_config is missing"):
        ModelConfig.from_dict({"model_type": "llama4"})
    with pytest.raises(BadCheckpoint, match=r"vision_config.hidden_size is missing"):
        ModelConfig.from_dict(raw | {"vision_config": {"patch_size": 14, "image_size": 56}})
    with pytest.raises(BadCheckpoint, match="bits is missing"):
        ModelConfig.from_dict(raw | {"quantization": {"group_size": 64}})
    for vision in ({"image_size": 60}, {"rope_parameters": "x"}):
        with pytest.raises(BadCheckpoint, match=f"vision_config.{next(iter(vision))}"):
            ModelConfig.from_dict(raw | {"vision_config": raw["vision_config"] | vision})
    with pytest.raises(BadCheckpoint, match="tie_word_embeddings"):
        ModelConfig.from_dict(raw | {"tie_word_embeddings": True})


def test_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)
    for text in ("{", "[]", "\udcff"):
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(BadCheckpoint, match=r"config\.json"):
            ModelConfig.from_folder(tmp_path)
