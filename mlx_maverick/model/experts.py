"""The mixture-of-experts layer: router, routed experts, shared expert.

Knows nothing of attention. Source: Llama 4 routes each token to one expert; the sigmoid of
the router's logit scales that expert's *input*, and a shared expert sees every token.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

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


# Called between pieces of work that take long; raises to end it.
Pause = Callable[[], None]


def go_on() -> None:
    """No pause."""


class Routed(Protocol):
    """The routed experts of a layer, wherever they are."""

    def steps(
        self,
        routes: Sequence[tuple[mx.array, mx.array]],
        meanwhile: Sequence[mx.array],
        residuals: Sequence[mx.array],
        pause: Pause,
    ) -> list[mx.array]:
        """Of each of several steps that follow each other, rows [T, hidden] and the expert each
        goes through [T] -> [T, hidden]. `meanwhile` will be wanted too, and does not depend on
        any of this; `residuals` are what the layer was given, before its norm."""


class Experts:
    """All routed experts' SwiGLU, in memory."""

    def __init__(self, gate: ExpertLinear, up: ExpertLinear, down: ExpertLinear):
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down

    @staticmethod
    def read(weights: Weights, config: TextConfig) -> "Experts":
        """Those of a checkpoint."""
        e, h, f = config.num_local_experts, config.hidden_size, config.intermediate_size
        return Experts(
            weights.experts("gate_proj", e, f, h),
            weights.experts("up_proj", e, f, h),
            weights.experts("down_proj", e, h, f),
        )

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

    def steps(
        self,
        routes: Sequence[tuple[mx.array, mx.array]],
        meanwhile: Sequence[mx.array],
        residuals: Sequence[mx.array],
        pause: Pause,
    ) -> list[mx.array]:
        """See `Routed`."""
        return [self(rows, chosen) for rows, chosen in routes]


class MoE:
    """Router, one routed expert for each token, and the shared expert."""

    def __init__(self, weights: Weights, config: TextConfig, experts: Routed | None = None):
        """`experts`: those of this layer, if they are not to be read from `weights`."""
        self.router: Linear = weights.linear("router", config.num_local_experts, config.hidden_size)
        self.experts = experts or Experts.read(weights.at("experts"), config)
        self.shared_expert = MLP(
            weights.at("shared_expert"), config.hidden_size, config.intermediate_size
        )

    def __call__(self, x: mx.array) -> mx.array:
        """[B, L, hidden] -> [B, L, hidden]"""
        return self.steps([x], [x])[0]

    def steps(
        self, xs: Sequence[mx.array], residuals: Sequence[mx.array], pause: Pause = go_on
    ) -> list[mx.array]:
        """The same for several steps at once."""
        routes = [self._route(x.reshape(-1, x.shape[-1])) for x in xs]
        shared = [self.shared_expert(x) for x in xs]
        routed = self.experts.steps(routes, shared, residuals, pause)
        return [r.reshape(s.shape) + s for r, s in zip(routed, shared, strict=True)]

    def _route(self, rows: mx.array) -> tuple[mx.array, mx.array]:
        """[T, hidden] -> what goes through experts, and which of them takes each row."""
        logits = self.router(rows)
        score = mx.sigmoid(mx.max(logits, axis=-1, keepdims=True).astype(mx.float32))
        return rows * score.astype(rows.dtype), mx.argmax(logits, axis=-1)

    def expected(self, rows: mx.array) -> mx.array:
        """The experts [T] that would be chosen for rows [T, hidden]."""
        return mx.argmax(self.router(rows), axis=-1)
