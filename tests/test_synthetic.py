"""Random checkpoints for benchmarks are checkpoints."""

from pathlib import Path

import mlx.core as mx

from mlx_maverick import synthetic
from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import published
from mlx_maverick.prompt import Prompt
from mlx_maverick.published_models import MODELS

SMALL = {
    "hidden_size": 128, "intermediate_size": 128, "intermediate_size_mlp": 256, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def test_it_is_a_published_checkpoint(tmp_path: Path) -> None:
    weights = synthetic.write(tmp_path, layers=4, experts=3, **SMALL)
    config, checkpoint = ModelConfig.from_folder(tmp_path), Checkpoint.open(tmp_path)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == published.shapes(config)
    assert sum(t.size for t in checkpoint.tensors.values()) == weights
    assert config.text.moe_layers == (False, True, False, True)
    values = mx.load(str(tmp_path / "model.safetensors"))
    matrix = values["language_model.model.layers.1.feed_forward.experts.gate_up_proj"]
    assert 0.019 < mx.std(matrix.astype(mx.float32)).item() < 0.021
    lm_head = values["language_model.lm_head.weight"]
    embed = values["language_model.model.embed_tokens.weight"]
    assert not mx.array_equal(lm_head, embed).item()


def test_a_vision_tower_and_any_vocabulary(tmp_path: Path) -> None:
    tower = {"hidden_size": 88, "num_attention_heads": 1, "intermediate_size": 352}
    tower |= {"num_hidden_layers": 2, "projector_input_dim": 64, "projector_output_dim": 64}
    tower |= {"vision_output_dim": 64}
    synthetic.write(tmp_path, experts=2, vision=tower, vocab_size=300, **SMALL)
    config, checkpoint = ModelConfig.from_folder(tmp_path), Checkpoint.open(tmp_path)
    assert {n: t.shape for n, t in checkpoint.tensors.items()} == published.shapes(config)
    assert config.vision is not None
    assert config.vision.num_hidden_layers == 2
    prompt = Prompt.from_folder(tmp_path)
    assert prompt.special["<|patch|>"] == config.patch_token_id == 299
    assert prompt.count_tokens("w5 w6") == 2


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        synthetic.write(tmp_path / name, experts=2, seed=seed, **SMALL)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_matrices_are_mavericks_unless_changed() -> None:
    text = MODELS["maverick"].config.text
    assert (text.hidden_size, text.intermediate_size, text.num_local_experts) == (5120, 8192, 128)
