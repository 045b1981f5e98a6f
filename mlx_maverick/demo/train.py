"""Trains the demo model: `python -m mlx_maverick.demo.train --out DIR --steps N`.

Knows nothing of how. Needs the extra `demo-training`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..cli.options import whole
from ..errors import MaverickError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    args = _parser().parse_args(arguments)
    try:
        from .training import Plan, checkpoints, train
    except ModuleNotFoundError as e:
        if e.name not in ("torch", "transformers", "safetensors"):
            raise
        print(
            f"training needs {e.name}; install it: pip install 'mlx-maverick[demo-training]'",
            file=sys.stderr,
        )
        return 1
    found = checkpoints(args.out)
    if found and not args.resume:
        print(
            f"{args.out} holds {found[-1].name}; go on with --resume, or give another --out",
            file=sys.stderr,
        )
        return 2
    plan = Plan(
        args.out, args.sight_steps, args.steps, args.save_every, args.test_every, args.log_every,
        args.threads, args.fixed_threads, args.seed,
    )  # fmt: skip
    try:
        train(plan, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return 130
    except (MaverickError, OSError, RuntimeError) as e:  # of torch.load, too
        print(f"training ended: {e}; go on with --resume", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlx_maverick.demo.train", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, and DIR/model")
    add("--sight-steps", type=whole(1), default=6000, help="of the vision tower alone, before all")
    add("--steps", type=whole(1), default=32_000)
    add("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    add("--save-every", type=whole(1), default=1000, metavar="STEPS")
    add("--test-every", type=whole(1), default=2000, metavar="STEPS")
    add("--log-every", type=whole(1), default=50, metavar="STEPS")
    add("--threads", type=whole(1), default=2, help="at most; see --fixed-threads")
    add(
        "--fixed-threads",
        action="store_true",
        help="always all of them: slow where others compute too, but the same to the last bit",
    )
    add("--seed", type=int, default=0, help="of the first weights")
    return parser


if __name__ == "__main__":
    sys.exit(main())
