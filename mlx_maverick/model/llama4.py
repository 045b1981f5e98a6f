"""Llama 4: text decoder and vision tower joined, from a folder of weights.

Knows nothing of tokenizers, prompts or sampling.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..cache import Cache
from ..config import ModelConfig
from ..errors import UsageError
from ..kv import DENSE, KVOptions
from .linear import Linear
from .text import TextModel
from .vision import VisionModel
from .weights import Weights

if TYPE_CHECKING:
    from ..streaming.streams import Streams


def default_dtype() -> mx.Dtype:
    """What to compute in: bf16 on a GPU; float32 on a CPU, whose quantised kernels are about
    eight times slower in bf16 and which has no unquantised experts in anything else."""
    return mx.float32 if mx.default_device().type == mx.DeviceType.cpu else mx.bfloat16


def load_model(
    path: str | Path,
    dtype: mx.Dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
    streams: "Streams | None" = None,
) -> "Llama4":
    """Read a model folder (published BF16, or MLX quantised) into memory.

    `dtype` is what activations are computed in (None: `default_dtype()`); `progress(done,
    layers)` is called after each layer. `streams` has the routed experts, if they are not to be
    read into memory. The model belongs to the calling thread. Raises NotFound or BadCheckpoint.
    """
    folder = Path(path)
    config = ModelConfig.from_folder(folder)
    weights = Weights.from_folder(folder, config, dtype or default_dtype(), not streams)
    return Llama4(config, weights, progress, streams)


class Llama4:
    """The whole network. `vision` is None where the folder holds no tower."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        progress: Callable[[int, int], None] | None = None,
        streams: "Streams | None" = None,
    ):
        """`streams` has the routed experts, if `weights` has not."""
        self.config, self.dtype, self.streams = config, weights.dtype, streams
        report = progress or (lambda done, total: None)
        self.text = TextModel(
            weights.at("language_model"), config.text, report, streams.layers if streams else None
        )
        self.vision: VisionModel | None = None
        if config.vision is not None and weights.has("vision_model"):
            self.vision = VisionModel(weights.at("vision_model"), config.vision)
            self.projector: Linear = weights.at("multi_modal_projector").linear(
                "linear_1", config.text.hidden_size, config.vision.vision_output_dim
            )
        weights.settle()
        weights.finish()
        self.nbytes, self.parameters = weights.nbytes, weights.parameters
        if streams:
            layers = config.text.num_hidden_layers
            streams.start(self.text, lambda: report(layers, layers))
            self.nbytes += streams.nbytes
            self.parameters += streams.parameters

    def make_cache(self, options: KVOptions = DENSE, most: int | None = None) -> Cache:
        """An empty KV cache for one sequence (or one batch of equal lengths) of up to `most`
        tokens, if that is known.

        Raises UsageError for options that the model does not allow.
        """
        return Cache(self.config.text, options, most)

    def encode_image(self, pixels: Any) -> mx.array:
        """Tiles [N, 3, T, T], MLX or numpy -> features [N * tokens_per_tile, hidden].

        Raises UsageError where the model has no vision tower or the tiles another size.
        """
        if self.vision is None or self.config.vision is None:
            raise UsageError("this model has no vision tower; use one that was made with it")
        tiles = mx.array(pixels).astype(self.dtype)
        side = self.config.vision.image_size
        if tiles.ndim != 4 or tiles.shape[1:] != (self.config.vision.num_channels, side, side):
            raise UsageError(f"tiles of shape {list(tiles.shape)} are not [N, 3, {side}, {side}]")
        features = self.projector(self.vision(tiles))
        return features.reshape(-1, features.shape[-1])

    def embed(self, input_ids: mx.array, features: mx.array | None = None) -> mx.array:
        """[B, L] -> [B, L, hidden]; `features` [P, hidden] take the P patch positions in
        order. Raises UsageError if there are more or fewer of them than positions."""
        x = self.text.embed_tokens(input_ids)
        if self.config.patch_token_id is None and features is None:
            return x
        flat = np.array(input_ids).reshape(-1)
        places = np.flatnonzero(flat == self.config.patch_token_id)
        given = 0 if features is None else features.shape[0]
        if len(places) != given:
            raise UsageError(
                f"{given} picture features for {len(places)} patch positions; "
                "every picture needs its own placeholder"
            )
        if features is None:
            return x
        rows = x.reshape(-1, x.shape[-1])
        rows[mx.array(places)] = features.astype(x.dtype)
        return rows.reshape(x.shape)

    def __call__(
        self,
        input_ids: mx.array,
        pixel_values: Any = None,
        cache: Cache | None = None,
    ) -> mx.array:
        """Token ids [B, L] (and tiles [N, 3, T, T] for their patch positions, in order) ->
        logits [B, L, vocabulary].

        With a cache the tokens follow those in it, wherever that is; steps are cut at chunk
        boundaries here. Raises UsageError if pictures and placeholders disagree.
        """
        if input_ids.ndim != 2 or input_ids.size == 0:
            raise UsageError(f"input_ids of shape {list(input_ids.shape)} are not [B, L], L >= 1")
        features = None if pixel_values is None else self.encode_image(pixel_values)
        x = self.embed(input_ids, features)
        cache = cache or self.make_cache()
        hidden = []
        for start, end in cache.spans(x.shape[1]):
            hidden.append(self.text(x[:, start:end], cache))
            mx.eval(hidden[-1])
        return self.text.logits(mx.concatenate(hidden, axis=1))
