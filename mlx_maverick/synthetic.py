"""A checkpoint in the published layout with random weights, for benchmarks.

Knows nothing of what is measured. Shapes are Maverick's own, with fewer layers and experts;
values repeat after some millions, which no converter or engine can make use of.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import synthetic_routing
from .config import ModelConfig
from .convert import published
from .published_models import MODELS

REPEATED = 1 << 22  # random values
SPREAD = 0.02  # standard deviation, as models are initialised
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eom|>", "<|eot|>", "<|patch|>")
VOCABULARY = 2048
ZIPF = "synthetic_zipf"  # a key of config.json
# By so many powers of 2 embeddings are larger where routers follow a law: what attention adds is
# alike for neighbours, and early in a text as large as they are; it would choose for all of them.
LOUDER = 4
# Keys of the published vision section that decide no shape, and that mlx-vlm insists on.
VISION = {
    "model_type": "llama4_vision_model", "initializer_range": 0.02, "projector_dropout": 0.0,
    "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
}  # fmt: skip


def write(
    folder: Path,
    layers: int = 2,
    experts: int = 8,
    seed: int = 0,
    vision: Mapping[str, object] | None = None,
    zipf: float | None = None,
    **changes: object,
) -> int:
    """Write a checkpoint into the empty `folder`; the number of its weights.

    `changes` are keys of the text section of config.json, `vision` those of the tower's (None:
    no tower). With `zipf` routers choose experts by Zipf's law with that exponent (0: all as
    often), different ones in each layer; None: routers are random as the rest.
    """
    published_model = MODELS["maverick"].raw
    text_config = published_model["text_config"] | {
        "num_hidden_layers": layers, "num_local_experts": experts, "vocab_size": VOCABULARY,
        **changes,
    }  # fmt: skip
    vocabulary = int(text_config["vocab_size"])
    raw: dict[str, object] = {"model_type": "llama4", "text_config": text_config}
    if zipf is not None:
        raw[ZIPF] = zipf
    if vision is not None:
        raw["vision_config"] = VISION | published_model["vision_config"] | vision
        raw["image_token_index"] = vocabulary - len(SPECIAL) + SPECIAL.index("<|patch|>")
    shapes = published.shapes(ModelConfig.from_dict(raw))
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    _tokenizer(folder, vocabulary)
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {
            "dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size],
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    block = _random(seed)
    norms = None
    if zipf is not None:
        norms = synthetic_routing.norms(synthetic_routing.zipf(experts, zipf))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(shapes.items()):
            if norms is not None and name.endswith(".router.weight"):
                file.write(synthetic_routing.router(norms, shape[1], seed + number).data)
                continue
            louder = norms is not None and name.endswith(".embed_tokens.weight")
            for part in _values(block, prod(shape), number):
                file.write((part + (LOUDER << 7) if louder else part).data)  # 7 bits of fraction
    return offset // 2


def _random(seed: int) -> NDArray[np.uint16]:
    """bf16 bits of normally distributed values: the upper halves of float32."""
    values = np.random.default_rng(seed).standard_normal(REPEATED, np.float32) * np.float32(SPREAD)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _values(block: NDArray[np.uint16], count: int, number: int) -> Iterator[NDArray[np.uint16]]:
    start = number * 7919 % block.size  # so that no two tensors are the same
    while count:
        part = block[start : start + count]
        yield part
        count, start = count - part.size, 0


def _tokenizer(folder: Path, vocabulary: int) -> None:
    """One token for each word `w0`, `w1`, ..., and the special ones last."""
    words = [f"w{i}" for i in range(vocabulary - len(SPECIAL))]
    special = [
        {
            "id": len(words) + i, "content": text, "special": True, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for i, text in enumerate(SPECIAL)
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "w0",
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[3]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
