import json
from pathlib import Path

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import published

from .full_size import CONFIG, SHAPES


def test_every_tensor_of_the_full_checkpoint_and_no_other() -> None:
    assert published.shapes(ModelConfig.from_dict(CONFIG)) == SHAPES


def test_every_tensor_of_the_small_checkpoints(mini: Path) -> None:
    found = {name: t.shape for name, t in Checkpoint.open(mini).tensors.items()}
    assert published.shapes(ModelConfig.from_folder(mini)) == found


def test_without_vision_and_with_attention_bias(maverick_mini: Path) -> None:
    raw = json.loads((maverick_mini / "config.json").read_text())
    del raw["vision_config"]
    plain = published.shapes(ModelConfig.from_dict(raw))
    assert all(name.startswith("language_model.") for name in plain)
    raw["text_config"]["attention_bias"] = True
    extra = set(published.shapes(ModelConfig.from_dict(raw))) - set(plain)
    assert len(extra) == 8 * 4
    assert "language_model.model.layers.0.self_attn.k_proj.bias" in extra
