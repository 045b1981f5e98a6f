"""`mlx-maverick generate`: one prompt, with pictures if given; the answer goes to stdout."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DoesNotFit, MaverickError, NotFound, UsageError
from ..events import Event, Finished, FinishReason, Prefill, Stats, Token
from ..sampling import Sampling
from ..units import gb
from . import options
from .terminal import StatusLine, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..maverick import Maverick, ReplyOptions
    from ..prompt import Encoded
    from ..session import Session
    from ..streaming.stats import ExpertStats


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
    parser.add_argument(
        "--prompt-cache",
        type=Path,
        metavar="FILE",
        help="take what the prompt shares with this KV cache from there, and keep it there",
    )
    parser.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="the answer is JSON of this schema"
    )
    parser.add_argument(
        "--tools", type=Path, metavar="FILE", help="a JSON list of functions it may call"
    )
    options.add_kv(parser)
    options.add_experts(parser)
    options.add_sampling(parser)
    parser.add_argument(
        "--logprobs",
        type=options.whole(0),
        metavar="N",
        help="with --json: every token's log-probability, and the N likeliest ones'",
    )


def run(args: argparse.Namespace) -> int:
    model_name, sampling = options.required_model(args), options.sampling(args)
    if args.logprobs is not None and not args.json:
        raise UsageError("--logprobs needs --json, which has a place for them")
    text, how = _prompt(args.prompt), _reply_options(args, sampling)
    kv, experts = options.kv(args), options.experts(args)
    if args.raw and (args.image or args.system or args.tools):
        raise UsageError(
            "--raw takes neither --image nor --system nor --tools: they need the chat template"
        )
    parts = [*({"type": "image", "image": i} for i in args.image), {"type": "text", "text": text}]
    messages: list[dict[str, object]] = [{"role": "user", "content": parts}]
    if args.system:
        messages.insert(0, {"role": "system", "content": args.system})

    if args.prompt_cache:
        # Now: it would be a pity after minutes of loading and reading.
        from ..cache.store import place

        place(args.prompt_cache)
    status = StatusLine()
    try:
        status.show(f"loading {model_name}")
        from ..loading import Unread

        unread = Unread.open(model_name, args.context, kv=kv, experts=experts)
        # Before the weights: they take minutes, and the prompt may be wrong.
        tools = how.get("tools", ())
        prompt = unread.encode_text(text) if args.raw else unread.encode(messages, tools)
        if _there(args.prompt_cache):
            unread.check_cache(args.prompt_cache)
        model = unread.load(
            lambda done, total: status.show(f"loading {model_name}: {done}/{total} layers")
        )
        session = model.session()
        if _there(args.prompt_cache):
            session.load(args.prompt_cache)
        try:
            how["session"] = session
            _answer(model.stream_encoded(prompt, **how), model, status, args)
        except BaseException:  # ^C too: a long prompt was read for it
            try:
                _keep(session, prompt, args.prompt_cache, status)
            except MaverickError as e:
                print(f"mlx-maverick: {printable(str(e))}", file=sys.stderr)
            raise
        _keep(session, prompt, args.prompt_cache, status)
    finally:
        status.clear()
    return 0


def _reply_options(args: argparse.Namespace, sampling: Sampling) -> "ReplyOptions":
    """What files say about the reply. Raises NotFound or UsageError before anything is read."""
    how: ReplyOptions = {"sampling": sampling}
    if args.json_schema:
        from ..grammar import JsonSchema

        how["json_schema"] = JsonSchema.parse(_text(args.json_schema))
    if args.tools:
        try:
            how["tools"] = json.loads(_text(args.tools))
        except ValueError as e:
            raise UsageError(f"{args.tools} is not JSON ({e})") from None
    return how


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except UnicodeDecodeError as e:
        raise UsageError(f"{file} is not UTF-8 (byte {e.start})") from None


def _there(file: Path | None) -> bool:
    return file is not None and file.exists()


def _keep(session: "Session", prompt: "Encoded", file: Path | None, status: StatusLine) -> None:
    """Write the KV cache, unless most of the prompt came from the file: what is new is then
    soon computed again, and that of a long document takes gigabytes."""
    if file is None or session.reused is None or not session.length:  # nothing to keep
        return
    if len(prompt.ids) - session.reused > session.reused // 2:
        status.show(f"writing {file}")
        session.save(file)


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
    tokens: list[Token] = []
    written = False
    try:
        for event in events:
            if isinstance(event, Prefill):
                status.show(f"reading the prompt: {event.done}/{event.total} tokens")
            elif isinstance(event, Token):
                status.clear()
                tokens.append(event)
                if event.text and not args.json:
                    written = True
                    print(shown(event.text), end="", flush=True)
            elif isinstance(event, Finished):
                last = event
    finally:
        if written:
            print(flush=True)  # also after ^C: the shell's prompt starts on its own line
    calls = [{"name": call.name, "arguments": call.arguments} for call in last.tool_calls]
    if args.json:
        stats = asdict(last.stats)
        if (streamed := last.stats.experts) is not None:
            stats["experts"] |= {
                "hit_rate": streamed.hit_rate,
                "bandwidth": streamed.bandwidth,
                "accuracy": streamed.accuracy,
            }
        stats |= {"prefill_tps": last.stats.prefill_tps, "decode_tps": last.stats.decode_tps}
        text = "".join(token.text for token in tokens)
        reply: dict[str, Any] = {"text": text, "finish_reason": last.reason}
        if args.tools:
            reply |= {"tool_calls": calls, "problem": last.problem}
        if args.logprobs is not None:
            reply["logprobs"] = [asdict(token) for token in tokens if token.id is not None]
        said = json.dumps({"model": model.name, **reply, "stats": stats})
        print(said.replace("\x7f", "\\u007f"))  # the one control character that JSON leaves
    else:
        for call in calls:
            print(shown(json.dumps(call, ensure_ascii=False)))
    if args.tools and last.problem:
        print(f"no tool call: {printable(last.problem)}", file=sys.stderr)
    if args.json_schema and last.reason is not FinishReason.STOP:
        print(f"the JSON is not complete: cut off ({last.reason})", file=sys.stderr)
    if args.verbose or (sys.stderr.isatty() and not args.json):
        print(summary(last.stats), file=sys.stderr)
    if last.reason is FinishReason.MEMORY:
        raise DoesNotFit(
            f"stopped after {last.stats.new_tokens} tokens: {last.problem}, --kv-bits 8 or a "
            "smaller recipe"
        )


def summary(stats: Stats) -> str:
    """One line of counts and speeds."""
    cached = f" ({stats.cached_tokens} from the cache)" if stats.cached_tokens else ""
    return (
        f"prompt {stats.prompt_tokens} tokens{cached}, {stats.prefill_tps:.1f} tok/s; "
        f"answer {stats.new_tokens} tokens, {stats.decode_tps:.1f} tok/s; "
        f"peak memory {gb(stats.peak_memory)}{_experts(stats.experts)}"
    )


def _experts(stats: "ExpertStats | None") -> str:
    if stats is None:
        return ""
    seen = stats.accuracy
    ahead = "" if seen is None else f", next layers' experts foreseen {seen * 100:.0f} %"
    return (
        f"; experts {stats.slots} of {stats.experts} in {gb(stats.slab_bytes)}, hits "
        f"{stats.hit_rate * 100:.1f} %, read {gb(stats.bytes_read)} at {gb(stats.bandwidth)}/s, "
        f"waited {stats.wait_seconds:.1f} s{ahead}"
    )
