"""The output's files beside the weights: config.json, and what is copied from the source.

Knows nothing of tensors. Never copied: README (it describes another folder), code (nothing
here runs any), sub-folders, and weights in other formats.
"""

from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from mlx_maverick.config import Quant, parse_json
from mlx_maverick.files import Files, read_whole

COPIED = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "LICENSE*", "USE_POLICY*", "NOTICE*",
)  # fmt: skip
OTHERS = (".py", ".safetensors")  # whatever else their names say


def copies(files: Files) -> dict[str, bytes]:
    """The source's files that the output takes over unchanged, by name.

    Raises BadCheckpoint if one that should be JSON is not.
    """
    texts = {}
    for name in sorted(files.sizes):
        if any(fnmatchcase(name, pattern) for pattern in COPIED) and not name.endswith(OTHERS):
            texts[name] = read_whole(files, name)
            if name.endswith(".json"):
                # A damaged one would only be noticed when the model is used.
                parse_json(texts[name], files.path(name))
    return texts


def config(raw: Mapping[str, Any], quants: Mapping[str, Quant]) -> dict[str, Any]:
    """The source's config.json, plus how the module at each path was quantised.

    mlx-lm and mlx-vlm quantise the modules that have scales in the files: with what is said
    for their path, else with the default. So the default is what most modules have, and
    bf16 modules need no word. A `quantization_config` of the source described its own files:
    the top level's is replaced, the text section's dropped.
    """
    kept = dict(raw)
    if isinstance(text := raw.get("text_config"), Mapping):
        text = {k: v for k, v in text.items() if k != "quantization_config"}
        if isinstance(tuning := text.get("attn_temperature_tuning"), int):
            # transformers 4.51 wrote 4 for "yes", which no other version reads.
            text["attn_temperature_tuning"] = bool(tuning)
        kept["text_config"] = text
    if not quants:  # a recipe may leave everything bf16
        return {k: v for k, v in kept.items() if k not in ("quantization", "quantization_config")}
    ((default, _),) = Counter(quants.values()).most_common(1)
    section: dict[str, Any] = _fields(default)
    section |= {path: _fields(quant) for path, quant in quants.items() if quant != default}
    # Twice, as mlx-lm writes it: the second name is where the Hub and transformers look.
    return {**kept, "quantization": section, "quantization_config": section}


def _fields(quant: Quant) -> dict[str, Any]:
    return {"group_size": quant.group_size, "bits": quant.bits, "mode": quant.mode}
