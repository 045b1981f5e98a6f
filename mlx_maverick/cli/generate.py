"""`mlx-maverick generate`: one prompt, with pictures if given; the answer goes to stdout."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..events import Event, Finished, Prefill, Stats, Token
from ..units import gb
from . import options
from .terminal import StatusLine, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..maverick import Maverick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--prompt", "-p", metavar="TEXT", help="the prompt; '-' reads stdin")
    options.add_message(parser)
    parser.add_argument(
        "--raw",
        action="store_true",
        help="no chat template: continue the text itself (base models)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--verbose",
        "-v",
        action="store_true",
        help="counts and speeds on stderr, also off a terminal",
    )
    options.add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    model_name, sampling = options.required_model(args), options.sampling(args)
    text = _prompt(args.prompt)
    if args.raw and (args.image or args.system):
        raise UsageError("--raw takes neither --image nor --system: they need the chat template")
    parts = [*({"type": "image", "image": i} for i in args.image), {"type": "text", "text": text}]
    messages: list[dict[str, object]] = [{"role": "user", "content": parts}]
    if args.system:
        messages.insert(0, {"role": "system", "content": args.system})

    status = StatusLine()
    try:
        status.show(f"loading {model_name}")
        from ..maverick import Unread

        unread = Unread.open(model_name, args.context)
        # Before the weights: they take minutes, and the prompt may be wrong.
        prompt = unread.encode_text(text) if args.raw else unread.encode(messages)
        model = unread.load(
            lambda done, total: status.show(f"loading {model_name}: {done}/{total} layers")
        )
        _answer(model.stream_encoded(prompt, sampling=sampling), model, status, args)
    finally:
        status.clear()
    return 0


def _prompt(given: str | None) -> str:
    if given is None:
        raise UsageError("no prompt; give --prompt TEXT, or --prompt - to read it from stdin")
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"the prompt on stdin is not UTF-8 (byte {e.start})") from None


def _answer(
    events: "Iterator[Event]", model: "Maverick", status: StatusLine, args: argparse.Namespace
) -> None:
    # A file or a pipe gets the model's very text; a terminal only what cannot control it.
    shown = printable if sys.stdout.isatty() else str
    pieces: list[str] = []
    try:
        for event in events:
            if isinstance(event, Prefill):
                status.show(f"reading the prompt: {event.done}/{event.total} tokens")
            elif isinstance(event, Token):
                status.clear()
                pieces.append(event.text)
                if not args.json:
                    print(shown(event.text), end="", flush=True)
            elif isinstance(event, Finished):
                last = event
    finally:
        if pieces and not args.json:
            print(flush=True)  # also after ^C: the shell's prompt starts on its own line
    if args.json:
        stats = asdict(last.stats)
        stats |= {"prefill_tps": last.stats.prefill_tps, "decode_tps": last.stats.decode_tps}
        reply = {"text": "".join(pieces), "finish_reason": last.reason, "stats": stats}
        print(json.dumps({"model": model.name, **reply}))
    if args.verbose or (sys.stderr.isatty() and not args.json):
        print(summary(last.stats), file=sys.stderr)


def summary(stats: Stats) -> str:
    """One line of counts and speeds."""
    return (
        f"prompt {stats.prompt_tokens} tokens, {stats.prefill_tps:.1f} tok/s; "
        f"answer {stats.new_tokens} tokens, {stats.decode_tps:.1f} tok/s; "
        f"peak memory {gb(stats.peak_memory)}"
    )
