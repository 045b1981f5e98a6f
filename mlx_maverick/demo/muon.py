"""Muon: steps of matrices whose singular values are all alike (Jordan et al., 2024).

Knows nothing of the model. Matrices stacked in a 3-D tensor, as experts are, count each.
"""

from collections.abc import Iterable
from typing import Any

import torch

# Of the quintic iteration that pushes all singular values towards 1 (Jordan, 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon:
    """Momentum, made orthogonal. Keeps its state in `momenta`, one for each weight."""

    def __init__(self, weights: Iterable[Any], momentum: float = 0.95):
        self.weights, self.momentum = list(weights), momentum
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]

    def step(self, rate: float, decay: float) -> None:
        """One step; `decay` is a part of the weights for each unit of `rate`."""
        with torch.no_grad():
            # Alike ones together: they are small and many.
            groups: dict[tuple[int, ...], list[int]] = {}
            for n, weight in enumerate(self.weights):
                if weight.grad is not None:
                    groups.setdefault(tuple(weight.shape[-2:]), []).append(n)
            for (rows, columns), members in groups.items():
                updates = []
                for n in members:
                    gradient, mean = self.weights[n].grad, self.momenta[n]
                    mean.lerp_(gradient, 1 - self.momentum)
                    updates.append(gradient.lerp(mean, self.momentum).reshape(-1, rows, columns))
                made = orthogonal(torch.cat(updates)) * max(1.0, rows / columns) ** 0.5
                for n, update in zip(members, made.split([len(u) for u in updates]), strict=True):
                    self.weights[n].mul_(1 - rate * decay)
                    self.weights[n].sub_(rate * update.reshape(self.weights[n].shape))

    def state_dict(self) -> list[Any]:
        return self.momenta

    def load_state_dict(self, state: list[Any]) -> None:
        for mean, saved in zip(self.momenta, state, strict=True):
            mean.copy_(saved)


def orthogonal(x: Any) -> Any:
    """[N, R, C]: the nearest matrices with singular values about 1. In bf16, which is enough."""
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()
