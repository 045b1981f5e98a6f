"""config.json and the files that are copied."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import convert
from mlx_maverick.convert.documents import config, copies
from mlx_maverick.errors import BadCheckpoint
from mlx_maverick.files import Folder

from . import damage


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


def test_old_overrides_are_dropped() -> None:
    """Of paths that have other bits now, or none."""
    old = {"group_size": 32, "bits": 8, "a": {"group_size": 32, "bits": 3}, "b": False}
    raw = {"quantization": old, "quantization_config": old}
    written = config(raw, {"a": Quant(64, 4)})
    assert written["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert config(raw, {}) == {}


def test_an_old_spelling_is_mended() -> None:
    """transformers 4.51 wrote 4 for "yes", which later ones and so mlx-lm refuse."""
    raw = {"text_config": {"attn_temperature_tuning": 4}}
    assert config(raw, {"a": Quant(64, 4)})["text_config"]["attn_temperature_tuning"] is True


@pytest.mark.parametrize("form", ["compressed", "fbgemm", "mlx-8bit"])
def test_nothing_is_left_of_how_the_source_was_stored(
    form: str, made: Callable[[str, str, bool], Path]
) -> None:
    folder = made(form, "e3r4", True)
    written = json.loads((folder / "config.json").read_text())
    assert written["quantization_config"] == written["quantization"]
    assert "quant_method" not in json.dumps(written)
    assert ModelConfig.from_folder(folder).source_quantization is None


def test_a_damaged_side_file_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[1]", "\udcff"):
        (tmp_path / "generation_config.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(BadCheckpoint, match="generation_config"):
            copies(Folder(tmp_path))


def test_what_is_copied(tmp_path: Path) -> None:
    wanted = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    wanted |= {"chat_template.jinja", "generation_config.json", "preprocessor_config.json"}
    wanted |= {"LICENSE", "USE_POLICY.md", "NOTICE.txt", "tokenizer.model"}
    others = {"README.md", "config.json", "modeling.py", "LICENSE.py", "pytorch_model.bin"}
    others |= {"maverick.json", "LICENSE.safetensors", "training_args.bin", ".gitattributes"}
    for name in wanted | others:
        (tmp_path / name).write_text("{}")
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "tokenizer.json").rename(tmp_path / "blob")
    (tmp_path / "tokenizer.json").symlink_to("blob")  # as in the Hub's cache
    assert list(copies(Folder(tmp_path))) == sorted(wanted)


def test_licences_come_along_to_the_byte(source: Path, out: Path) -> None:
    texts = {"LICENSE": b"Llama 4\r\n\xff", "LICENSE.txt": b"", "USE_POLICY.md": b"# no\n"}
    for name, text in texts.items():
        (source / name).write_bytes(text)
    (source / "README.md").write_text("# theirs")
    (source / "maverick.json").write_text("{}")
    (source / "evil.py").write_text("x")
    convert(source, out, "e4r4", fast=True)
    assert {name: (out / name).read_bytes() for name in texts} == texts
    assert "theirs" not in (out / "README.md").read_text()
    assert (out / "maverick.json").read_text() != "{}"
    weights = {"model.safetensors", damage.INDEX}
    assert {p.name for p in out.iterdir()} == weights | texts.keys() | {
        "README.md", "maverick.json", "config.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "chat_template.jinja", "generation_config.json",
        "preprocessor_config.json", "processor_config.json",
    }  # fmt: skip


def test_a_recipe_that_leaves_everything_bf16_says_nothing() -> None:
    raw = {"model_type": "llama4", "quantization_config": {"quant_method": "x"}}
    assert config(raw, {}) == {"model_type": "llama4"}
