"""The network that is trained is transformers' Llama 4, and the engine's; a run can be cut."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import Llama4ForConditionalGeneration

from mlx_maverick.demo import folder, network
from mlx_maverick.demo.batches import Encoder, Example
from mlx_maverick.demo.training import Plan, train
from mlx_maverick.model import load_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights that are larger than fresh ones, in bf16."""
    path = tmp_path_factory.mktemp("network") / "model"
    folder.write(path)
    model = network.build(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight * (3 if weight.ndim > 1 else 1)).bfloat16().float())
    network.save(model, path)
    return path


@pytest.fixture(scope="module")
def examples(made: Path) -> list[Example]:
    """A short one, one across chunks, and one with a picture of many tiles."""
    encoder = Encoder(made)
    several = [encoder.example("train", number) for number in range(120)]
    long = next(e for e in several if len(e.ids) > 300)
    return [several[0], long, max(several, key=lambda e: len(e.tiles))]


def pixels(example: Example) -> np.ndarray | None:
    return example.tiles.astype(np.float32) / 127.5 - 1 if len(example.tiles) else None


def test_it_computes_what_transformers_and_the_engine_do(
    made: Path, examples: list[Example]
) -> None:
    own = Llama4ForConditionalGeneration.from_pretrained(
        made, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    fast, ours, encoder = network.build(1), load_model(made), Encoder(made)
    fast.load_state_dict(own.state_dict())
    for example in examples:
        shown = pixels(example)
        with torch.no_grad():
            tiles = None if shown is None else torch.from_numpy(shown)
            theirs = own(input_ids=torch.tensor([example.ids]), pixel_values=tiles).logits[0]
            outcome = network.run(fast, encoder.batch([example]))
        at = [n for first, last in example.answers for n in range(first, last)]
        targets = torch.tensor(example.ids)[at]
        loss = torch.nn.functional.cross_entropy(theirs[[n - 1 for n in at]], targets)
        assert outcome.loss.item() == pytest.approx(loss.item(), abs=1e-4)
        logits = np.array(ours(mx.array([example.ids]), pixel_values=shown))[0]
        assert np.abs(logits - theirs.numpy()).max() < 1e-3


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_maverick.demo.training.TESTED", 16)
    plan = Plan(tmp_path / "whole", 2, 4, 2, 100, 1, 1, True, 0)
    said: dict[str, list[str]] = {"whole": [], "cut": []}
    train(plan, said["whole"].append)
    cut = replace(plan, out=tmp_path / "cut")
    train(replace(cut, steps=2), lambda line: None)
    train(cut, said["cut"].append)
    losses = [
        [
            line.split(" rate ")[0]
            for line in lines
            if line.startswith(("step 3 loss", "step 4 loss"))
        ]
        for lines in said.values()
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in said]
    assert weights[0] == weights[1]
