"""`mlx-maverick verify`: whether a converted folder is, to the byte, what was written.

Knows nothing of how it is found out.
"""

import argparse

from .. import hub
from ..convert.progress import Progress
from ..errors import UsageError
from ..units import gb
from .options import whole
from .terminal import StatusLine, printable

SAMPLES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="MODEL", help="folder that convert wrote")
    parser.add_argument(
        "--source",
        metavar="SOURCE",
        help="what it was made from, a folder or repository: parts of it are converted again "
        "and compared",
    )
    parser.add_argument(
        "--samples",
        type=whole(2),
        metavar="N",
        help=f"how many parts (default: {SAMPLES}), most of them experts",
    )


def run(args: argparse.Namespace) -> int:
    if args.samples and not args.source:
        raise UsageError("--samples is about --source; give both")

    from ..convert.sample import sample
    from ..convert.verify import verify

    folder, status = hub.resolve(args.folder), StatusLine()

    def reading(event: Progress) -> None:
        status.show(f"reading {gb(event.done)} of {gb(event.total)}  {event.what}")

    def comparing(event: Progress) -> None:
        status.show(f"comparing {event.done + 1} of {event.total}  {event.what}")

    try:
        manifest = verify(folder, reading)
        found = args.source and sample(folder, args.source, args.samples or SAMPLES, 0, comparing)
    finally:
        status.clear()
    total = sum(file.size for file in manifest.files.values())
    line = f"{args.folder}: {len(manifest.files)} files, {gb(total)}, as written"
    if found:
        same = "all" if found.same == found.parts else f"{found.same}"
        line += f"; {found.parts} samples compared with the source, {same} the same to the byte"
    print(printable(line))
    return 0
