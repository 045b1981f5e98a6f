"""Routers that spread random tokens over experts by a given law.

Knows nothing of files. A router's logits for a token are its rows times the token's hidden
state; for states in random directions they are normal and independent, with deviations in
proportion to the norms of the rows. So the norms decide how often each expert is the largest.
"""

import math

import numpy as np
from numpy.typing import NDArray

# The largest share an expert can have: a normal logit is below 0 for half of all tokens, and some
# other expert's is above it then.
MOST = 0.42
SPREAD = 0.02  # of the weights, on average
STEPS = 4001  # of the integral
ROUNDS = 400  # at most
CLOSE = 1e-4

Floats = NDArray[np.float64]


def zipf(experts: int, exponent: float) -> Floats:
    """Shares of tokens, the most popular expert first: in proportion to 1 / rank ** exponent."""
    weights: Floats = np.arange(1.0, experts + 1) ** -exponent
    weights /= weights.sum()
    return weights


def won(norms: Floats) -> Floats:
    """How often each of several normal variables of mean 0 is the largest, by their deviations."""
    values = np.linspace(-1, 1, STEPS) * 8 * norms.max()
    scaled = values / norms[:, None]
    below = np.maximum(_normal(scaled), 1e-300)
    density = np.exp(-(scaled**2) / 2) / norms[:, None]
    wins = density * np.exp(np.log(below).sum(axis=0) - np.log(below))
    shares: Floats = wins.sum(axis=1)
    shares /= shares.sum()
    return shares


def norms(shares: Floats) -> Floats:
    """Deviations, 1 on average, with which the variables win these shares, none of them above
    MOST: found by trying."""
    found = np.ones(len(shares))
    for _ in range(ROUNDS):
        wrong = shares / won(found)
        if abs(wrong - 1).max() < CLOSE:
            break
        found *= wrong**0.2
        found /= found.mean()
    return found


def router(norms: Floats, hidden: int, seed: int) -> NDArray[np.uint16]:
    """bf16 bits of a router's weights [experts, hidden], its rows of these norms on average 1;
    which expert has which depends on the seed."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((len(norms), hidden))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scale = draw.permutation(norms) * SPREAD * math.sqrt(hidden)
    weights = (rows * scale[:, None]).astype(np.float32)
    return (weights.view(np.uint32) >> 16).astype(np.uint16)


def _normal(x: Floats) -> Floats:
    """The standard normal distribution function, between values of a table."""
    grid = np.linspace(-9, 9, 3601)
    table = [math.erfc(-value / math.sqrt(2)) / 2 for value in grid]
    values: Floats = np.interp(x, grid, table)
    return values
