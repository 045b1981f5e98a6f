"""What a model is: frozen dataclasses read once from its `config.json`.

Knows nothing of weights. Every published spelling ends in the same values: the original
release (which leaves most Llama 4 constants out), re-saved copies (which list them per
layer), and transformers 5 (`rope_parameters`, `dtype`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadCheckpoint, NotFound
from .files import Files, read_whole
from .names import canonical

# Absent from the published config.json; values of the reference implementation
# (transformers, Llama4TextConfig).
DEFAULT_FLOOR_SCALE = 8192
DEFAULT_ATTN_SCALE = 0.1
NO_ROPE_INTERVAL = 4
MAX_LAYERS = 1000  # a bound on what a damaged file makes us allocate


@dataclass(frozen=True)
class RopeScaling:
    """llama3 frequency scaling, as Scout has it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class TextConfig:
    """The decoder. Per-layer tuples have `num_hidden_layers` entries."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    intermediate_size: int  # of a routed and of a shared expert
    intermediate_size_mlp: int  # of a dense layer
    num_local_experts: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    use_qk_norm: bool
    attention_bias: bool
    attention_chunk_size: int
    max_position_embeddings: int
    attn_temperature_tuning: bool
    floor_scale: int
    attn_scale: float
    rope_layers: tuple[bool, ...]  # rotary, or NoPE
    chunked_layers: tuple[bool, ...]  # attends inside its own chunk, or over everything
    moe_layers: tuple[bool, ...]  # routed experts, or a dense MLP


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower, its adapter, and the picture rules that follow from its shape."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int  # pixels on a tile's side
    patch_size: int
    num_channels: int
    norm_eps: float
    rope_theta: float
    pixel_shuffle_ratio: float
    projector_input_dim: int
    projector_output_dim: int
    vision_output_dim: int

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens_per_tile(self) -> int:
        """Positions one tile takes in the prompt."""
        return int(self.patches_per_side**2 * self.pixel_shuffle_ratio**2)


@dataclass(frozen=True)
class Quant:
    """How one matrix is quantised: MLX's group size, bits per weight and mode."""

    group_size: int
    bits: int
    mode: str = "affine"

    @property
    def bits_per_weight(self) -> float:
        """With the share of scale and bias; other modes have one byte for both."""
        return self.bits + (32 if self.mode == "affine" else 8) / self.group_size


@dataclass(frozen=True)
class Quantization:
    """`quantization` of config.json: the default, and what single paths override."""

    default: Quant
    overrides: Mapping[str, Quant | None] = field(default_factory=dict)

    def of(self, path: str) -> Quant | None:
        """The setting of the module at `path`; None where it is said not to be quantised."""
        return self.overrides.get(path, self.default)


def stored_quant(
    settings: Quantization | None, path: str, inputs: int, columns: int, groups: int, folder: Path
) -> Quant:
    """How the matrix at `path` is stored, whose rows of `inputs` weights take `columns` words of
    32 bits and `groups` scales.

    What config.json says of this very path must agree with the shapes; where it only gives a
    default, the shapes decide, because older converters kept some matrices at other bits without
    a word. Raises BadCheckpoint.
    """
    if settings is None:
        raise BadCheckpoint(
            f"{folder}: {path} is quantised, but config.json has no 'quantization'; convert the "
            "model again"
        )
    said = settings.of(path)
    mode = said.mode if said else settings.default.mode
    stored = Quant(inputs // max(groups, 1), columns * 32 // inputs, mode)
    if path in settings.overrides and said != stored:
        raise BadCheckpoint(
            f"{folder}: config.json gives {path} {said}, but its shape is that of {stored}; "
            "convert the model again"
        )
    return stored


@dataclass(frozen=True)
class ModelConfig:
    """A whole model folder's `config.json`."""

    text: TextConfig
    vision: VisionConfig | None
    quantization: Quantization | None
    patch_token_id: int | None  # `<|patch|>`, which the published files call image_token_index
    source_quantization: str | None  # a format only `convert` reads, for instance FP8

    @staticmethod
    def from_folder(folder: str | Path) -> "ModelConfig":
        """Read `folder/config.json`.

        Raises NotFound without one, BadCheckpoint if it is not valid or not a Llama 4.
        """
        return ModelConfig.from_dict(read_json(Path(folder) / "config.json"), str(folder))

    @staticmethod
    def from_files(files: Files) -> "ModelConfig":
        """The same of a model that may be elsewhere."""
        text = read_whole(files, "config.json")
        return ModelConfig.from_dict(parse_json(text, files.path("config.json")), files.where)

    @staticmethod
    def from_dict(raw: Mapping[str, Any], where: str = "config.json") -> "ModelConfig":
        """The config in `raw`; `where` names it in errors."""
        kind = raw.get("model_type")
        if kind == "llama4":
            text = _section(raw, "text_config", where)
            if raw.get("tie_word_embeddings") or text.get("tie_word_embeddings"):
                raise BadCheckpoint(
                    f"{where}: tie_word_embeddings is true, but no Llama 4 ties its lm_head; "
                    "use an unmodified config.json"
                )
            vision = raw.get("vision_config")
        elif kind == "llama4_text":
            text, vision = raw, None
        else:
            raise BadCheckpoint(
                f"{where}: model_type is {kind!r}, not 'llama4'; "
                "mlx-maverick runs Llama 4 (Maverick, Scout) only"
            )
        patch = raw.get("image_token_index", raw.get("image_token_id"))
        source = raw.get("quantization_config")
        if source is None:
            source = text.get("quantization_config")
        foreign = source.get("quant_method") if isinstance(source, Mapping) else None
        return ModelConfig(
            text=_text(_Keys(text, f"{where}: text_config" if text is not raw else where)),
            vision=_vision(_Keys(vision, f"{where}: vision_config")) if vision else None,
            quantization=_quantization(raw, where),
            patch_token_id=int(patch) if patch is not None else None,
            source_quantization=str(foreign) if foreign and "quantization" not in raw else None,
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder.

    Raises NotFound without the file, BadCheckpoint if it is not a JSON object.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path.parent} has no {path.name}: is it a model folder?") from None
    except OSError as e:
        raise BadCheckpoint(f"{path} cannot be read ({e}); download it again") from None
    return parse_json(text, path)


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `text`; `path` names it in errors.

    Raises BadCheckpoint if it is not a JSON object.
    """
    try:
        value = json.loads(text.decode())
    except ValueError as e:  # of JSON, and of UTF-8
        raise BadCheckpoint(f"{path} cannot be read ({e}); download it again") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} is not a JSON object; download it again")
    return value


class _Keys:
    """Typed look-ups in one section, whose errors name section and key."""

    def __init__(self, raw: Mapping[str, Any], where: str):
        self.raw, self.where = raw, where

    def fail(self, key: str, why: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self.where}.{key} {why}; use the model's own config.json")

    def get(self, key: str, default: Any = None) -> Any:
        value = self.raw.get(key)
        return default if value is None else value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if value is None:
            raise self.fail(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, f"is {value!r}, not a number")
        if not math.isfinite(value) or value <= 0:
            raise self.fail(key, f"is {value!r}, not a positive number")
        return value

    def whole(self, key: str, default: float | None = None) -> int:
        value = self.number(key, default)
        if value != int(value):
            raise self.fail(key, f"is {value!r}, not a whole number")
        return int(value)

    def only(self, key: str, supported: Any) -> None:
        value = self.get(key, supported)
        if value != supported:
            raise self.fail(key, f"is {value!r}; only {supported!r} is supported")

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        value = self.get(key)
        if not value:  # transformers writes an empty list for "the default"
            return None
        if not isinstance(value, list) or len(value) != layers:
            raise self.fail(key, f"must list one entry for each of the {layers} layers")
        return value


def _section(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if not isinstance(value, Mapping):
        raise BadCheckpoint(f"{where}: {key} is missing; use the model's own config.json")
    return value


def _text(keys: _Keys) -> TextConfig:
    keys.only("hidden_act", "silu")
    keys.only("num_experts_per_tok", 1)
    layers = keys.whole("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise keys.fail("num_hidden_layers", f"is {layers}, more than {MAX_LAYERS}")
    heads = keys.whole("num_attention_heads")
    hidden = keys.whole("hidden_size")

    interval = keys.whole(
        "no_rope_layer_interval", keys.whole("nope_layer_interval", NO_ROPE_INTERVAL)
    )
    flags = keys.per_layer("no_rope_layers", layers)  # 1 means: has rotary
    rope = [bool(f) for f in flags] if flags else [(i + 1) % interval != 0 for i in range(layers)]
    kinds = keys.per_layer("layer_types", layers)
    chunked = [kind == "chunked_attention" for kind in kinds] if kinds else list(rope)
    unknown = set(kinds or []) - {"chunked_attention", "full_attention"}
    if unknown:
        raise keys.fail("layer_types", f"holds {sorted(map(str, unknown))[0]!r}")
    limit = keys.whole("max_position_embeddings", 1048576)
    chunk = keys.whole("attention_chunk_size", limit)

    step = keys.whole("interleave_moe_layer_step", 1)
    listed = keys.get("moe_layers")
    moe = set(range(step - 1, layers, step) if listed is None else listed)
    outside = [i for i in moe if not isinstance(i, int) or not 0 <= i < layers]
    if outside:
        raise keys.fail("moe_layers", f"names layer {outside[0]!r} of {layers}")

    theta, scaling = _rope(keys)
    return TextConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys.whole("num_key_value_heads", heads),
        head_dim=keys.whole("head_dim", hidden // heads),
        vocab_size=keys.whole("vocab_size"),
        intermediate_size=keys.whole("intermediate_size"),
        intermediate_size_mlp=keys.whole("intermediate_size_mlp"),
        num_local_experts=keys.whole("num_local_experts"),
        rms_norm_eps=keys.number("rms_norm_eps", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        use_qk_norm=bool(keys.get("use_qk_norm", True)),
        attention_bias=bool(keys.get("attention_bias", False)),
        attention_chunk_size=chunk,
        max_position_embeddings=limit,
        attn_temperature_tuning=bool(keys.get("attn_temperature_tuning", True)),
        floor_scale=keys.whole("floor_scale", DEFAULT_FLOOR_SCALE),
        attn_scale=keys.number("attn_scale", DEFAULT_ATTN_SCALE),
        rope_layers=tuple(rope),
        chunked_layers=tuple(chunked),
        moe_layers=tuple(i in moe for i in range(layers)),
    )


def _rope(keys: _Keys) -> tuple[float, RopeScaling | None]:
    """theta and scaling, from `rope_theta` + `rope_scaling` or from `rope_parameters`."""
    key = "rope_parameters" if keys.get("rope_parameters") else "rope_scaling"
    raw = keys.get(key, {})
    if not isinstance(raw, Mapping):
        raise keys.fail(key, "is not an object")
    inner = _Keys(raw, f"{keys.where}.{key}")
    nested = next((k for k, v in raw.items() if isinstance(v, Mapping)), None)
    if nested:  # one setting for each kind of layer, as other models have it
        raise inner.fail(nested, "is an object; Llama 4 has one setting for all layers")
    theta = inner.number("rope_theta", keys.number("rope_theta", 500000.0))
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise inner.fail("rope_type", f"is {kind!r}; only 'default' and 'llama3' are supported")
    return theta, RopeScaling(
        factor=inner.number("factor"),
        low_freq_factor=inner.number("low_freq_factor"),
        high_freq_factor=inner.number("high_freq_factor"),
        original_max_position_embeddings=inner.whole("original_max_position_embeddings"),
    )


def _vision(keys: _Keys) -> VisionConfig:
    keys.only("hidden_act", "gelu")
    keys.only("vision_feature_select_strategy", "default")
    rope = keys.get("rope_parameters", {})
    if not isinstance(rope, Mapping):
        raise keys.fail("rope_parameters", "is not an object")
    if keys.whole("image_size") % keys.whole("patch_size"):
        raise keys.fail("image_size", "is not a multiple of patch_size")
    return VisionConfig(
        hidden_size=keys.whole("hidden_size"),
        num_hidden_layers=keys.whole("num_hidden_layers"),
        num_attention_heads=keys.whole("num_attention_heads"),
        intermediate_size=keys.whole("intermediate_size"),
        image_size=keys.whole("image_size"),
        patch_size=keys.whole("patch_size"),
        num_channels=keys.whole("num_channels", 3),
        norm_eps=keys.number("norm_eps", 1e-5),
        rope_theta=float(rope.get("rope_theta") or keys.number("rope_theta", 10000.0)),
        pixel_shuffle_ratio=keys.number("pixel_shuffle_ratio", 0.5),
        projector_input_dim=keys.whole("projector_input_dim"),
        projector_output_dim=keys.whole("projector_output_dim"),
        vision_output_dim=keys.whole("vision_output_dim"),
    )


def _quantization(raw: Mapping[str, Any], where: str) -> Quantization | None:
    section = raw.get("quantization")
    if section is None:
        return None
    if not isinstance(section, Mapping):
        raise BadCheckpoint(f"{where}: quantization is not an object; convert the model again")
    overrides: dict[str, Quant | None] = {}
    for path, value in section.items():
        if isinstance(value, Mapping):
            overrides[canonical(path)] = _quant(_Keys(value, f"{where}: quantization[{path!r}]"))
        elif value is False:
            overrides[canonical(path)] = None
    return Quantization(_quant(_Keys(section, f"{where}: quantization")), overrides)


def _quant(keys: _Keys) -> Quant:
    return Quant(keys.whole("group_size", 64), keys.whole("bits"), str(keys.get("mode", "affine")))
