"""Teaches the vision tower to see before the whole model learns to talk.

Knows nothing of language. A linear reading of what the tower and the projector make of a
picture has to say what is where; with words alone as its teacher the tower learns that only
after tens of thousands of steps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..config import ModelConfig
from ..images import load_picture
from . import network
from .folder import TILE
from .scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, Scene, make_scene

SIZE = 64  # pictures in a batch
RATE, WARM_UP, LEAST, DECAY = 2e-3, 100, 0.02, 0.05
SHAPE, COLOUR = len(SHAPES) + 1, len(COLOURS) + 1  # kinds, and nothing
# Positions after the tower: those of one tile.
PATCHES = (TILE // 14 // 2) ** 2


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures, each as the tile that shows all of it, and what is in them."""

    tiles: Any  # [B, 3, T, T], uint8
    shapes: Any  # [B, places]
    colours: Any  # [B, places]
    backgrounds: Any  # [B]


def seen(config: ModelConfig, rng: Random) -> Seen:
    """A batch. Pictures that show nothing the world knows are left out."""
    scenes: list[Scene] = []
    while len(scenes) < SIZE:
        scene = make_scene(rng)
        if scene.things:
            scenes.append(scene)
    tiles = np.stack([load_picture(scene.picture, config).levels[-1] for scene in scenes])
    shapes = torch.full((SIZE, len(PLACES)), SHAPE - 1)
    colours = torch.full((SIZE, len(PLACES)), COLOUR - 1)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            shapes[row, thing.place] = SHAPES.index(thing.shape)
            colours[row, thing.place] = list(COLOURS).index(thing.colour)
    backgrounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    return Seen(torch.from_numpy(tiles), shapes, colours, backgrounds)


def batches(config: ModelConfig, seed: int) -> Iterator[Seen]:
    rng = Random(f"sight {seed}")
    while True:
        yield seen(config, rng)


class Reading(torch.nn.Module):  # type: ignore[misc]
    """What is where, read from the positions of one tile."""

    def __init__(self, width: int):
        super().__init__()
        places = len(PLACES)
        self.shapes = torch.nn.Linear(PATCHES * width, places * SHAPE)
        self.colours = torch.nn.Linear(PATCHES * width, places * COLOUR)
        self.backgrounds = torch.nn.Linear(PATCHES * width, len(BACKGROUNDS))

    def forward(self, positions: Any, truth: Seen) -> tuple[Any, list[float]]:
        """[B * PATCHES, D] -> loss, and how many of shapes, colours, backgrounds are right."""
        flat = positions.reshape(len(truth.tiles), -1)
        parts = (
            (self.shapes(flat).reshape(-1, SHAPE), truth.shapes.reshape(-1)),
            (self.colours(flat).reshape(-1, COLOUR), truth.colours.reshape(-1)),
            (self.backgrounds(flat), truth.backgrounds),
        )
        loss = sum(F.cross_entropy(logits, targets) for logits, targets in parts)
        return loss, [float(a.argmax(-1).eq(b).float().mean()) for a, b in parts]


def learn(model: Any, folder: Path, steps: int, seed: int, say: Callable[[str], None]) -> None:
    """Train the tower and the projector of `model`, which is otherwise left as it is."""
    config = ModelConfig.from_folder(folder)
    torch.manual_seed(seed)
    reading = Reading(config.text.hidden_size)
    weights = [
        *model.vision_model.parameters(), *model.multi_modal_projector.parameters(),
        *reading.parameters(),
    ]  # fmt: skip
    adam = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.98), weight_decay=DECAY, fused=True)
    for step, truth in zip(range(steps), batches(config, seed), strict=False):
        done = step / steps
        part = min(1.0, (step + 1) / WARM_UP) * max(LEAST, (1 + math.cos(math.pi * done)) / 2)
        adam.param_groups[0]["lr"] = RATE * part
        loss, right = reading(network.see(model, truth.tiles), truth)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        if (step + 1) % 100 == 0:
            shapes, colours, backgrounds = right
            say(
                f"sight {step + 1} loss {loss.item():.4f} shapes {shapes:.3f} "
                f"colours {colours:.3f} backgrounds {backgrounds:.3f}"
            )
