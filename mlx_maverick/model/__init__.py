"""The network. `load_model(path)` gives a `Llama4`; names mirror the checkpoint's."""

from .llama4 import Llama4, default_dtype, load_model

__all__ = ["Llama4", "default_dtype", "load_model"]
