"""`mlx-maverick bench --quality`: how many answers of the demo's world are right, by recipe.

Knows nothing of how the model was made. Conversations are ones that it was not trained on; each
answer follows the model's own earlier ones, decoded greedily, and has to be right to the letter.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint
from ..errors import UsageError
from ..hub import DEMO, resolve
from ..units import gb
from . import bench_chat, options
from .bench_synthetic import given
from .machine import aligned, machine
from .terminal import StatusLine

if TYPE_CHECKING:
    from ..demo.world import Conversation, Split
    from ..maverick import Maverick

KEEP = "keep"  # as `convert` calls it: as the model is
RECIPES = ("e8r8", "e6r8", "e5r8", "e4r8", "e4r6", "e4r4", "e3r6", "e2r6", "e2r4")
CONVERSATIONS = 500
FIRST = 10_000  # number of the first one; training's tests have smaller ones
MOST_TOKENS = 64  # of an answer; none of the world's is so long
PICTURES, WORDS = "pictures", "words"
NEVER = "-"  # in the place of a share of nothing


@dataclass(frozen=True)
class Quality:
    """Of one recipe. Shares are of answers, exact to the letter."""

    recipe: str
    nbytes: int  # of all tensors
    right: dict[str, float | None]  # of answers about pictures, and of all others
    kinds: dict[str, float]  # of each kind of question
    answers: dict[str, int]  # how many there were, of both


@dataclass(frozen=True)
class Result:
    """What `--json` prints."""

    model: str
    conversations: int
    unseen: bool
    rows: list[Quality]
    machine: dict[str, str] = field(default_factory=dict)

    def table(self) -> Iterator[str]:
        answers = self.rows[0].answers
        kind = "conversations of unseen combinations" if self.unseen else "conversations"
        yield (
            f"{self.conversations} {kind}, {answers[PICTURES]:,} answers about pictures "
            f"and {answers[WORDS]:,} others"
        )
        yield "recipe      size  with pictures  without"
        for row in self.rows:
            seen, said = (_percent(row.right[name]) for name in (PICTURES, WORDS))
            yield f"{row.recipe:<6}  {gb(row.nbytes):>8}  {seen:>13}  {said:>7}"
        yield from aligned(self.machine)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--quality",
        action="store_true",
        help="measure instead how many answers of the demo model are right, as it is and in "
        f"each recipe (--recipe for one, {KEEP} for as it is)",
    )
    group.add_argument(
        "--conversations",
        type=options.whole(1),
        default=CONVERSATIONS,
        metavar="N",
        help="to be had (default: %(default)s)",
    )
    group.add_argument(
        "--unseen",
        action="store_true",
        help="of combinations that its training never showed: colours with shapes, sums, names",
    )


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for options that are about other measurements."""
    others = [*options.given(args, (*bench_chat.OTHERS, "chat")), *given(args)]
    if others := [name for name in others if name != "recipe"]:
        name = others[0].replace("_", "-")
        raise UsageError(f"--quality measures answers alone; leave out --{name}")
    wanted = (KEEP, *RECIPES) if args.recipe is None else (args.recipe,)
    split: Split = "unseen" if args.unseen else "test"
    status = StatusLine()
    try:
        result = measure(args.model or DEMO, wanted, args.conversations, split, status.show)
    finally:
        status.clear()
    print(json.dumps(asdict(result)) if args.json else "\n".join(result.table()))
    return 0


def measure(
    model: str, recipes: tuple[str, ...], count: int, split: "Split", report: Callable[[str], None]
) -> Result:
    """Of `count` conversations, the same for all."""
    from ..convert import convert
    from ..convert.recipe import Recipe
    from ..demo.world import conversation
    from ..loading import load

    source = resolve(model)
    talks = [conversation(split, FIRST + number) for number in range(count)]
    rows = []
    for recipe in recipes:
        name = recipe if recipe == KEEP else Recipe.parse(recipe).name
        report(name)
        with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as place:
            folder = source if recipe == KEEP else Path(place, "model")
            if folder != source:
                convert(source, folder, recipe)
            nbytes = Checkpoint.open(folder).nbytes
            found = answers(load(folder), talks, partial(_told, report, name, count))
            rows.append(_quality(name, nbytes, found))
    return Result(model, count, split == "unseen", rows, machine())


def answers(
    model: "Maverick", talks: "list[Conversation]", report: Callable[[int], None]
) -> dict[str, list[bool]]:
    """Whether each answer was right, by kind of question."""
    right: dict[str, list[bool]] = defaultdict(list)
    for number, talk in enumerate(talks):
        report(number)
        session, messages = model.session(), talk.messages[: talk.system is not None]
        for turn in talk.turns:
            messages = [*messages, {"role": "user", "content": turn.content}]
            reply = model.generate(messages, session=session, temperature=0, max_tokens=MOST_TOKENS)
            right[turn.kind].append(reply.text == turn.answer)
            said = {"role": "assistant", "content": reply.text, "token_ids": reply.ids}
            messages = [*messages, said]
    return right


def in_two(right: dict[str, list[bool]]) -> dict[str, list[bool]]:
    """Of PICTURES and of WORDS instead of each kind."""
    from ..demo.world import SEEN

    both: dict[str, list[bool]] = {PICTURES: [], WORDS: []}
    for kind, hits in right.items():
        both[PICTURES if kind in SEEN else WORDS] += hits
    return both


def _quality(recipe: str, nbytes: int, right: dict[str, list[bool]]) -> Quality:
    both = in_two(right)
    return Quality(
        recipe,
        nbytes,
        right={name: sum(hits) / len(hits) if hits else None for name, hits in both.items()},
        kinds={kind: sum(right[kind]) / len(right[kind]) for kind in sorted(right)},
        answers={name: len(hits) for name, hits in both.items()},
    )


def _told(report: Callable[[str], None], recipe: str, count: int, number: int) -> None:
    report(f"{recipe}: {number} of {count}")


def _percent(share: float | None) -> str:
    return NEVER if share is None else f"{share:.1%}"
