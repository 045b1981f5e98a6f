from pathlib import Path

import pytest

from mlx_maverick.config import Quant
from mlx_maverick.convert.documents import config, copies
from mlx_maverick.errors import BadCheckpoint


def test_the_default_is_what_most_modules_have() -> None:
    quants = {"a": Quant(64, 6), "b": Quant(64, 4), "c": Quant(64, 6)}
    written = config({"model_type": "llama4"}, quants)
    assert written["quantization"] == {
        "group_size": 64, "bits": 6, "mode": "affine",
        "b": {"group_size": 64, "bits": 4, "mode": "affine"},
    }  # fmt: skip
    assert written["quantization_config"] == written["quantization"]


def test_the_sources_own_setting_is_dropped_and_all_else_kept() -> None:
    raw = {
        "model_type": "llama4",
        "quantization_config": {"quant_method": "x"},
        "text_config": {"hidden_size": 1, "quantization_config": {}},
        "unknown": [1, {"a": None}],
    }
    written = config(raw, {"a": Quant(64, 4)})
    assert written["quantization_config"]["bits"] == 4
    assert written["text_config"] == {"hidden_size": 1}
    assert written["unknown"] == raw["unknown"]
    assert raw["text_config"] == {"hidden_size": 1, "quantization_config": {}}


def test_an_old_spelling_is_mended() -> None:
    """transformers 4.51 wrote 4 for "yes", which later ones and so mlx-lm refuse."""
    raw = {"text_config": {"attn_temperature_tuning": 4}}
    assert config(raw, {"a": Quant(64, 4)})["text_config"]["attn_temperature_tuning"] is True


def test_a_damaged_side_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="generation_config"):
        copies(tmp_path)


def test_what_is_copied(tmp_path: Path) -> None:
    wanted = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    wanted |= {"chat_template.jinja", "generation_config.json", "preprocessor_config.json"}
    wanted |= {"LICENSE", "USE_POLICY.md", "NOTICE.txt"}
    others = {"README.md", "config.json", "modeling.py", "LICENSE.py", "pytorch_model.bin"}
    for name in wanted | others:
        (tmp_path / name).write_text("{}")
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "tokenizer.json").rename(tmp_path / "blob")
    (tmp_path / "tokenizer.json").symlink_to("blob")  # as in the Hub's cache
    assert [p.name for p in copies(tmp_path)] == sorted(wanted)


def test_a_recipe_that_leaves_everything_bf16_says_nothing() -> None:
    raw = {"model_type": "llama4", "quantization_config": {"quant_method": "x"}}
    assert config(raw, {}) == {"model_type": "llama4"}
