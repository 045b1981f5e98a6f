"""`mlx-maverick verify`: whether a converted folder is, to the byte, what was written.

Knows nothing of how it is found out.
"""

import argparse
from pathlib import Path

from ..units import gb
from .terminal import StatusLine, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="MODEL", type=Path, help="folder that convert wrote")


def run(args: argparse.Namespace) -> int:
    from ..convert.verify import verify

    status = StatusLine()
    try:
        manifest = verify(
            args.folder.expanduser(),
            lambda p: status.show(f"reading {gb(p.done)} of {gb(p.total)}  {p.what}"),
        )
    finally:
        status.clear()
    total = sum(file.size for file in manifest.files.values())
    print(printable(f"{args.folder}: {len(manifest.files)} files, {gb(total)}, as written"))
    return 0
