"""The training of the demo model, from fresh weights or from a checkpoint.

Knows nothing of command lines. What step k reads follows from k alone, so a run that was
killed goes on from its last checkpoint as if it had not been; while the tower learns alone there
is none.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import folder, network, sight
from .batches import SIZE, Batch, Encoder
from .feed import stream
from .muon import Muon
from .world import SEEN, Split

RATE, MATRIX_RATE = 2e-3, 1e-2  # of AdamW and of Muon
# The tower has learned to see before, and keeps that until the rest knows what to ask it for.
TOWER_RATE, TOWER_FROM = 3e-4, 4000
WARM_UP, HELD, LEAST = 300, 8000, 0.01  # steps; and part of the rates at the end
DECAY = 0.05  # of matrices
BALANCE = 0.01  # weight of the load-balancing term
CLIP = 1.0  # norm of the gradients
KEPT = 2  # checkpoints
TESTED = 320  # conversations
SPLITS: tuple[Split, ...] = ("test", "unseen")


@dataclass(frozen=True)
class Plan:
    """A run: where it writes, how far it goes, and after how many steps it does what."""

    out: Path
    sight_steps: int
    steps: int
    save_every: int
    test_every: int
    log_every: int
    threads: int
    fixed_threads: bool
    seed: int


def train(plan: Plan, say: Callable[[str], None]) -> None:
    """Train up to `plan.steps`, from the last checkpoint in `plan.out` if there is one.

    `plan.out/model` is the model folder as of the last checkpoint; `say` is told how it goes,
    a line at a time.
    """
    target = plan.out / "model"
    folder.write(target)
    threads = Threads(plan.threads, plan.fixed_threads)
    model = network.build(plan.seed)
    optimiser = Optimiser(model)
    first = restore(plan.out, model, optimiser)
    if first is None:
        sight.learn(model, target, plan.sight_steps, plan.seed, say)
        first = 0
        keep(plan.out, first, model, optimiser)
    say(f"{sum(p.numel() for p in model.parameters()):,} weights, from step {first}")
    tests = {split: held_out(target, split) for split in SPLITS}
    losses: list[float] = []
    since = time.monotonic()
    steps = range(first, plan.steps)
    for step, batch in zip(steps, stream(target, "train", first), strict=False):
        optimiser.tower = step >= TOWER_FROM
        loss, balance = learn(model, optimiser, batch, rate(step, plan.steps))
        losses.append(loss)
        threads.step()
        done = step + 1
        last = done == plan.steps
        if done % plan.log_every == 0 or last:
            seconds, since = (time.monotonic() - since) / len(losses), time.monotonic()
            say(
                f"step {done} loss {sum(losses) / len(losses):.4f} last {loss:.6f} "
                f"balance {balance:.3f} rate {rate(step, plan.steps):.3f} {seconds:.3f} s/step"
            )
            losses = []
        if done % plan.save_every == 0 or last:
            keep(plan.out, done, model, optimiser)
        if done % plan.test_every == 0 or last:
            for split, batches in tests.items():
                say(f"step {done} {split}: " + "; ".join(exact(model, batches)))
            least = [f"{min(layer):.3f}" for layer in network.usage(model)]
            say(f"step {done} least used experts: {' '.join(least)}")
            since = time.monotonic()


def rate(step: int, steps: int) -> float:
    """The part of the learning rates: up in a line, all of them for a while, down in a line."""
    up = (step + 1) / WARM_UP
    down = (steps - step) / max(1, steps - HELD)
    return max(LEAST, min(1.0, up, down))


class Optimiser:
    """Muon for the matrices, AdamW for the rest; the vision tower only while `tower`."""

    OTHERS = ("embed", "lm_head", "router")  # matrices, but of another kind

    def __init__(self, model: Any):
        self.seeing = list(model.vision_model.parameters())
        named = [(n, p) for n, p in model.named_parameters() if "vision_model" not in n]
        matrices = {n for n, p in named if p.ndim > 1 and not any(o in n for o in self.OTHERS)}
        self.muon = Muon(p for n, p in named if n in matrices)
        others = [p for n, p in named if n not in matrices]
        groups = [{"params": others}, {"params": self.seeing}]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.tower = False

    def step(self, part: float) -> None:
        """`part` of the full learning rates."""
        self.adam.param_groups[0]["lr"] = part * RATE
        self.adam.param_groups[1]["lr"] = part * TOWER_RATE
        self.adam.step()
        self.muon.step(part * MATRIX_RATE, DECAY)

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])


def learn(model: Any, optimiser: Optimiser, batch: Batch, part: float) -> tuple[float, float]:
    """One step; loss and balance before it."""
    for weight in optimiser.seeing:
        weight.requires_grad_(optimiser.tower)
    outcome = network.run(model, batch)
    model.zero_grad(set_to_none=True)
    (outcome.loss + BALANCE * outcome.balance).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimiser.step(part)
    return outcome.loss.item(), outcome.balance.item()


def checkpoints(out: Path) -> list[Path]:
    """The oldest first."""
    return sorted(p for p in out.glob("step-*.pt") if re.fullmatch(r"step-\d{6}\.pt", p.name))


def keep(out: Path, step: int, model: Any, optimiser: Optimiser) -> None:
    """Write a checkpoint, whole or not at all, and the model's weights as they are now."""
    path = out / f"step-{step:06}.pt"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    for old in checkpoints(out)[:-KEPT]:
        old.unlink()
    network.save(model, out / "model")


def restore(out: Path, model: Any, optimiser: Optimiser) -> int | None:
    """Load the last checkpoint; the number of steps it has behind it, None without one."""
    found = checkpoints(out)
    if not found:
        return None
    state = torch.load(found[-1], weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def held_out(model_folder: Path, split: Split) -> list[Batch]:
    """Conversations that training does not read."""
    encoder = Encoder(model_folder)
    examples = [encoder.example(split, n) for n in range(TESTED)]
    examples.sort(key=lambda e: len(e.ids))
    return [encoder.batch(examples[n : n + SIZE]) for n in range(0, TESTED, SIZE)]


def exact(model: Any, batches: list[Batch]) -> Iterator[str]:
    """How many answers of each kind greedy decoding gives to the letter. Each follows the
    right ones before it: up to a conversation's first mistake, that is what the model says
    when it goes on by itself."""
    right: dict[str, list[bool]] = defaultdict(list)
    whole: list[bool] = []
    with torch.no_grad():
        for batch in batches:
            outcome = network.run(model, batch)
            by_row: dict[int, bool] = {}
            rows = batch.answers[:, 0].tolist()
            for row, kind, hit in zip(rows, batch.kinds, outcome.right, strict=True):
                for name in (kind, "PICTURES" if kind in SEEN else "WORDS"):
                    right[name].append(hit)
                by_row[row] = by_row.get(row, True) and hit
            whole += by_row.values()
    yield f"whole {sum(whole)}/{len(whole)}"
    for kind in sorted(right):
        yield f"{kind} {100 * sum(right[kind]) / len(right[kind]):.1f}% of {len(right[kind])}"


class Threads:
    """How many threads compute: all asked for while the machine is free, else one. Where one
    of two threads must wait for its core, the other waits for it, and both are slower."""

    TRIED = 8  # steps with all, before it is decided
    SINGLE = 40  # steps with one, before all are tried again

    def __init__(self, most: int, fixed: bool):
        self.most, self.fixed = most, fixed
        self.use(most)

    def use(self, count: int) -> None:
        torch.set_num_threads(count)
        self.count, self.left = count, self.SINGLE if count < self.most else self.TRIED
        self.since = time.monotonic(), time.process_time()

    def step(self) -> None:
        """After each step."""
        self.left -= 1
        if self.left or self.fixed or self.most == 1:
            return
        wall, busy = time.monotonic() - self.since[0], time.process_time() - self.since[1]
        self.use(1 if self.count > 1 and busy < 0.7 * self.most * wall else self.most)
