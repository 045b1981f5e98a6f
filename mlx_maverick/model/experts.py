"""The mixture-of-experts layer: router, routed experts, shared expert.

Knows nothing of attention. Source: Llama 4 routes each token to one expert; the sigmoid of
the router's logit scales that expert's *input*, and a shared expert sees every token.
"""

import mlx.core as mx

from ..config import TextConfig
from .linear import ExpertLinear, Linear
from .weights import Weights

# From this many tokens on, rows are sorted by expert, so that each expert's weights are
# read once; below it, sorting costs more than it saves (same threshold as mlx-lm).
SORT_FROM = 64


@mx.compile
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up"""
    return gate * mx.sigmoid(gate) * up


class MLP:
    """SwiGLU: the dense layers' MLP, and the shared expert."""

    def __init__(self, weights: Weights, hidden: int, inner: int):
        self.gate_up = weights.joined({"gate_proj": inner, "up_proj": inner}, hidden)
        self.down_proj: Linear = weights.linear("down_proj", hidden, inner)

    def __call__(self, x: mx.array) -> mx.array:
        """[..., hidden] -> [..., hidden]"""
        gate, up = self.gate_up(x)
        return self.down_proj(swiglu(gate, up))


class Experts:
    """The routed experts' SwiGLU, each row through the expert it names."""

    def __init__(self, weights: Weights, config: TextConfig):
        e, h, f = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_proj: ExpertLinear = weights.experts("gate_proj", e, f, h)
        self.up_proj: ExpertLinear = weights.experts("up_proj", e, f, h)
        self.down_proj: ExpertLinear = weights.experts("down_proj", e, h, f)

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """[T, hidden] and expert numbers [T] -> [T, hidden]"""
        ordered = experts.size >= SORT_FROM
        order = mx.argsort(experts) if ordered else None
        if order is not None:
            x, experts = x[order], experts[order]
        rows = x[:, None, :]
        gate = self.gate_proj(rows, experts, ordered)
        up = self.up_proj(rows, experts, ordered)
        out = self.down_proj(swiglu(gate, up), experts, ordered)[:, 0, :]
        return out if order is None else out[mx.argsort(order)]


class MoE:
    """Router, one routed expert for each token, and the shared expert."""

    def __init__(self, weights: Weights, config: TextConfig):
        self.router: Linear = weights.linear("router", config.num_local_experts, config.hidden_size)
        self.experts = Experts(weights.at("experts"), config)
        self.shared_expert = MLP(
            weights.at("shared_expert"), config.hidden_size, config.intermediate_size
        )

    def __call__(self, x: mx.array) -> mx.array:
        """[B, L, hidden] -> [B, L, hidden]"""
        rows = x.reshape(-1, x.shape[-1])
        logits = self.router(rows)
        chosen = mx.argmax(logits, axis=-1)
        score = mx.sigmoid(mx.max(logits, axis=-1, keepdims=True).astype(mx.float32))
        routed = self.experts(rows * score.astype(rows.dtype), chosen)
        return routed.reshape(x.shape) + self.shared_expert(x)
