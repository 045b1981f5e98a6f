"""The main path: a published checkpoint in, an MLX model folder out.

Knows the order of the steps; each step's module knows how.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx

from mlx_maverick import hub
from mlx_maverick.config import read_json
from mlx_maverick.errors import BadCheckpoint, MaverickError, UsageError

from . import journal, origin
from .card import CARD, card
from .hashes import Extent, hash_files
from .identity import identity, quantiser_word, recipe_words
from .manifest import MANIFEST, Manifest, manifest
from .pipeline import BEHIND_BYTES, Reader, Writer, ahead_bytes
from .plan import Job, Plan, make_plan
from .progress import Callback, Clock, Converted, Event, Planned, Progress, ignore
from .recipe import KEEP, Recipe
from .source import Bytes
from .values import BLOCK_WEIGHTS, TEMPORARY_BYTES, blocks, values
from .verify import verify_layout
from .write import Output, check_target, completed, output, partial

# Python with MLX, numpy and the Hub's client; 0.25 GB seen on Linux.
PROCESS_BYTES = 400 << 20
# Freed buffers MLX may keep for the next slice. Its own limit is all of the memory.
CACHE_BYTES = 256 << 20


def convert(
    source: str | Path,
    out: str | Path,
    recipe: Recipe | str,
    progress: Callback = ignore,
    *,
    fast: bool = False,
    revision: str | None = None,
    restart: bool = False,
) -> Converted:
    """The events of `stream`, each given to `progress`; the last one."""
    done: Event | None = None
    events = stream(source, out, recipe, fast=fast, revision=revision, restart=restart)
    try:
        for done in events:
            progress(done)
    except BaseException as e:
        # Ctrl-C is as likely to come while progress is shown: the conversion is to know why it
        # ends, and says what is kept. (An error of its own just comes back.)
        events.throw(e)
        raise
    assert isinstance(done, Converted)
    return done


def stream(
    source: str | Path,
    out: str | Path,
    recipe: Recipe | str,
    *,
    fast: bool = False,
    revision: str | None = None,
    restart: bool = False,
) -> Generator[Event, None, None]:
    """Write `source` as the MLX folder `out`: first Planned, then Progress, last Converted.

    `source` is a local folder, or a repository of the Hub as `owner/name` (at `revision`: a
    branch, tag or commit), of which only byte ranges are read: BF16 or FP8 as published, or an
    MLX folder. `recipe` is a Recipe, its name, the path of its file, or "keep". `fast` takes
    each group's scale from its smallest and largest weight instead of searching for the best.

    `out` appears at the end, whole. If anything fails, or the iterator is closed, what is done
    stays in `<out>.partial`, and the same call goes on from there, to the same bytes;
    `restart` discards it.
    Raises UsageError (recipe, `out` exists, another conversion was begun), NotFound,
    BadCheckpoint (anything wrong with the source), DoesNotFit (disk), MaverickError (network).
    """
    out = _expanded(out)
    folder = partial(out)
    wanted = None if recipe == KEEP else recipe
    wanted = Recipe.parse(wanted) if isinstance(wanted, str) else wanted
    if not restart and _was_killed_last(out, source, wanted, fast) and completed(out):
        yield _finished(out, Clock(), 0, 0.0)
        return
    begun = None if restart else journal.read(folder)
    with origin.opened(source, revision, begun) as files:
        plan = make_plan(files, wanted)
        check_target(hub.local(source), out)
        about = identity(plan, origin.describe(files), fast)
        clock, start = Clock(), perf_counter()
        with output(out, plan.layout, restart) as result, _small_cache():
            _begin(plan, result, about)
            with _keeping(plan, result):
                weights = yield from _carry_out(plan, result, about, fast, clock)
                result.finish(out)
    yield _finished(out, clock, weights, perf_counter() - start)


def _was_killed_last(out: Path, source: str | Path, wanted: Recipe | None, fast: bool) -> bool:
    """Whether `out` is this very conversion, killed just before its journal was removed."""
    if not (out / journal.NAME).is_file() or not (out / MANIFEST).is_file():
        return False
    about = read_json(out / MANIFEST)
    theirs = about.get("source", {})
    names = {str(source), Path(source).expanduser().resolve().name}
    return (
        about.get("recipe") == recipe_words(wanted)
        and about.get("quantiser") == quantiser_word(wanted, fast)
        and not names.isdisjoint({theirs.get("repo"), theirs.get("folder")})
    )


def _expanded(out: str | Path) -> Path:
    try:
        return Path(out).expanduser()
    except RuntimeError:  # ~ of nobody
        raise UsageError(f"{str(out)!r} is nobody's folder; choose another output") from None


def _carry_out(
    plan: Plan, result: Output, about: Mapping[str, Any], fast: bool, clock: Clock
) -> Generator[Event, None, int]:
    """Everything inside the `.partial` folder; returns how many weights were converted."""
    result.prepare()
    done = dict(result.journal.done)
    yield _planned(plan, result, about, sum(plan.jobs[n].nbytes for n in done))

    yield from _convert(plan, result, fast, clock)
    texts = plan.documents | {CARD: card(plan, about)}
    for name, text in texts.items():
        result.add(name, text)
    result.tidy({*plan.sizes, CARD, MANIFEST})
    verify_layout(result.folder, plan.layout)
    sizes = plan.sizes | {CARD: len(texts[CARD])}
    files, changed = yield from hash_files(result.folder, sizes, _extents(plan, result))
    if changed:  # by another program perhaps, while nothing was running; once is forgiven
        result.journal.forget(changed)
        yield from _convert(plan, result, fast, clock)
        files, changed = yield from hash_files(result.folder, sizes, _extents(plan, result))
    if changed:
        result.journal.forget(changed)
        raise BadCheckpoint(
            f"{result.folder} does not hold what was written into it, twice; check its disk, or "
            "choose another output"
        )
    result.add(MANIFEST, manifest(about, files))
    todo = (job for n, job in enumerate(plan.jobs) if n not in done)
    return sum(part.weights for job in todo for part in job.parts)


def _convert(plan: Plan, result: Output, fast: bool, clock: Clock) -> Iterator[Progress]:
    """All jobs that the journal does not say are done."""
    todo = [(n, job) for n, job in enumerate(plan.jobs) if n not in result.journal.done]
    total = plan.read_nbytes  # a sum over thousands of jobs, not to be formed for each of them
    count = total - sum(job.nbytes for _, job in todo)
    with (
        closing(Writer(result, clock)) as writer,
        closing(Reader(plan.files, todo, clock)) as reader,
    ):
        for number, job, data in reader:
            if isinstance(data, float):
                yield Progress("converting", count, total, str(job), waited=data)
                continue
            run(job, data, writer, clock, fast)
            writer.end(number)
            count += job.nbytes
            yield Progress("converting", count, total, str(job))
        writer.finish()


def _begin(plan: Plan, result: Output, about: Mapping[str, Any]) -> None:
    """Check that what is there belongs to this conversion, and that the disk has room."""
    log = result.journal
    about = {**about, "layout": plan.layout.digest}  # where jobs that are done wrote
    if log.done:
        assert log.identity is not None
        journal.refuse_other(log.identity, about, result.folder, _share(plan, log.done))
        result.tidy({*plan.sizes, CARD, MANIFEST})
    else:
        result.clear()
    plan.check_room(result.folder, result.allocated())
    if not log.done:
        log.begin(about)
    # Before the files are given their size, from when on they look as if nothing were missing.
    missing, places = result.missing(), result.layout.places
    log.forget(
        number
        for number in log.done
        if number >= len(plan.jobs)
        or any(places[e.name].shard in missing for p in plan.jobs[number].parts for e in p.entries)
    )


def run(job: Job, data: Bytes, writer: Writer, clock: Clock, fast: bool = False) -> None:
    """Quantise what was read for one job. Independent of every other job."""
    entry = 0
    for part in job.parts:
        entries, rows = part.entries, part.piece.encoding.shape[0]
        for start, stop in blocks(part):
            with clock.on("quantising"):
                arrays = values(part, data, start, stop, fast)
            for i, (made, array) in enumerate(zip(entries, arrays, strict=True)):
                first, nbytes = part.extent(made)
                writer.put(entry + i, made.name, first + nbytes // rows * start, array)
        entry += len(entries)


def _extents(plan: Plan, result: Output) -> dict[str, list[Extent]]:
    """By weight file: every range that was written, and its CRC-32."""
    extents: dict[str, list[Extent]] = {shard.name: [] for shard in plan.layout.shards}
    for number, crcs in result.journal.done.items():
        shares = [(e, *p.extent(e)) for p in plan.jobs[number].parts for e in p.entries]
        for (entry, first, nbytes), crc in zip(shares, crcs, strict=True):
            place = plan.layout.places[entry.name]
            extents[place.shard].append(Extent(place.offset + first, nbytes, crc, number))
    return extents


def peak_bytes(plan: Plan) -> int:
    """Most memory a conversion takes: the same however large the model is, because its largest
    slice is what counts. An upper estimate."""
    block = TEMPORARY_BYTES * BLOCK_WEIGHTS[mx.default_device().type]
    texts = sum(map(len, plan.documents.values()))
    return PROCESS_BYTES + texts + ahead_bytes(plan.jobs) + BEHIND_BYTES + block + CACHE_BYTES


def _planned(plan: Plan, result: Output, about: Mapping[str, Any], done: int) -> Planned:
    source = about["source"]
    return Planned(
        source=plan.files.where,
        commit=source.get("commit"),
        form=plan.form,
        recipe=about["recipe"]["name"],
        folder=result.folder,
        to_read=plan.read_nbytes,
        done=done,
        nbytes=plan.nbytes,
        kept=plan.kept,
        files=(*plan.sizes, CARD, MANIFEST),
        memory=peak_bytes(plan),
        weights=plan.weights,
        layers=plan.config.text.num_hidden_layers,
    )


def _finished(out: Path, clock: Clock, weights: int, seconds: float) -> Converted:
    made = Manifest.read(out)
    names = (*made.files, MANIFEST)
    nbytes = sum((out / name).stat().st_size for name in names)
    return Converted(out, made.recipe, nbytes, names, weights, seconds, clock.stages)


def _share(plan: Plan, done: Mapping[int, Any]) -> float:
    return sum(plan.jobs[n].nbytes for n in done if n < len(plan.jobs)) / plan.read_nbytes


@contextmanager
def _keeping(plan: Plan, result: Output) -> Iterator[None]:
    """An error says what is kept."""
    try:
        yield
    except (MaverickError, KeyboardInterrupt) as e:
        if result.journal.done and result.folder.is_dir():
            what = f"{_share(plan, result.journal.done):.0%} is kept in {result.folder}"
            e.args = (f"{str(e) or 'interrupted'}; {what}: the same command goes on",)
        raise


@contextmanager
def _small_cache() -> Iterator[None]:
    before = mx.set_cache_limit(CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
