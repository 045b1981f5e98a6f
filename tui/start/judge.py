"""What this machine can do with a model: run as a child process, as it takes MLX to ask.

Knows nothing of widgets and loads no Textual; `survey` is the parent's end. One request, in JSON,
is its argument; what it finds out goes to stdout, a line of JSON each, as soon as it is known:

    {"find": [NAME, ...], "context": ..., "kv": {...}}   facts: the machine, models, prospects
    {"ways": {"model": ..., "context": ..., "kv": {...}, "experts": {...}}}   ways out, in order
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ... import hub, macs, memory, pressure, protocol, sizing
from ...checkpoint import Checkpoint
from ...config import ModelConfig
from ...convert.recipe import Recipe
from ...doctor import host
from ...doctor.outlook import Outlook, outlook, streamed_folder
from ...errors import DoesNotFit, MaverickError, UsageError
from ...kv import DENSE, KVOptions
from ...macs import Machine
from ...memory import MIN_CONTEXT, Budget, fewer_bits, longest_context, raise_limit
from ...published_models import MODELS, Published
from ...sizing import Verdict
from ...streaming.decide import decide
from ...streaming.options import ExpertOptions, Mode
from . import found
from .facts import Computer, Fact, Fit, Found, Prospect, Remark, encode
from .ways import Asked, Kind, Way


@dataclass(frozen=True)
class Here:
    """This machine, as loading a model meets it."""

    machine: Machine
    element: int  # bytes of a value that is not quantised
    largest: int | None = None  # bytes that one array may take
    problem: str = ""  # why MLX cannot be loaded

    @staticmethod
    def ask() -> "Here":
        """Loads MLX, if it can be. Raises MaverickError if the system does not tell."""
        device = host.device()
        if not device.kind:
            computer, total = host.this_host(), pressure.read().total
            machine = macs.this_machine_without_mlx(total, computer.chip, computer.mac)
            return Here(machine, device.element_bytes, None, device.problem or "it gives no reason")
        import mlx.core as mx

        largest = mx.device_info().get("max_buffer_length")  # Metal only
        size = int(largest) if largest else None
        return Here(macs.this_machine(), device.element_bytes, size)


def facts(asked: list[str], context: int | None = None, kv: KVOptions = DENSE) -> Iterator[Fact]:
    """The machine, the models on it, and what else it could run."""
    here = Here.ask()
    machine = here.machine
    yield Computer(machine.name, machine.chip, machine.memory, machine.limit, machine.raised_limit)
    if here.problem:
        yield Remark(f"MLX cannot be loaded ({here.problem}); see 'mlx-maverick doctor'")
    for fact in found.models(asked):
        if not isinstance(fact, Found) or here.problem:
            yield fact
            continue
        try:
            yield judged(fact, here, context, kv)
        except MaverickError as e:
            yield fact
            yield Remark(f"{fact.name}: {e}")
    for model in MODELS.values():
        yield from prospects(model, here)


def judged(one: Found, here: Here, context: int | None = None, kv: KVOptions = DENSE) -> Found:
    """A folder that was found, with how it runs here. Raises as loading it would."""
    folder = hub.resolve(one.model)
    config, checkpoint = ModelConfig.from_folder(folder), Checkpoint.open(folder)
    tokens = sizing.checked_context(config, _at_most(config, context))
    if found.is_source(config, checkpoint):
        command = conversion(config, here.machine, str(folder), tokens)
        return replace(one, fit=Fit.SOURCE, command=command)
    need = sizing.of_folder(config, checkpoint, tokens, kv, here.element)
    machine, speed = here.machine, ""
    if need.budget.total <= machine.limit:
        return replace(one, fit=Fit.FITS, speed=_ceiling(need, machine))
    if streamed := streamed_folder(need, machine):
        speed = streamed.speed.words if streamed.speed.tps_full else ""
        raised = _raised(need.budget, machine)
        return replace(one, fit=Fit.STREAMED, speed=speed, command=raised)
    fit = sizing.fit(need, machine)
    if fit.command:
        return replace(one, fit=Fit.RAISED, command=fit.command)
    return replace(one, fit=Fit.NO, command=conversion(config, machine, str(folder), tokens))


def prospects(model: Published, here: Here) -> Iterator[Prospect]:
    """What to get of a published model: the best for this machine; and what has more bits,
    streamed, if that has few."""
    one = outlook(model, here.machine, here.element)
    if one.best is None or one.convert is None:
        yield Prospect(one.model, one.smallest, Fit.NO, 0, one.smallest_memory, "", "", "")
        return
    if one.verdict != Verdict.STREAMED:
        need = sizing.size(
            model.config, Recipe.named(one.best), one.context, element_bytes=here.element
        )
        fit = Fit.FITS if one.verdict == Verdict.FITS else Fit.RAISED
        yield Prospect(
            one.model, one.best, fit, need.disk, need.budget.total,
            _ceiling(need, here.machine), one.convert, one.sysctl or "",
        )  # fmt: skip
    yield from _streamed(one)


def _streamed(one: Outlook) -> Iterator[Prospect]:
    more = one.streamed
    if more is None or more.recipe is None or more.disk is None:
        return
    yield Prospect(
        one.model, more.recipe, Fit.STREAMED, more.disk, more.memory,
        more.speed.words if more.speed.tps_full else "",
        f"mlx-maverick convert {one.repo} --recipe {more.recipe}", more.sysctl or "",
    )  # fmt: skip


def _raised(budget: Budget, machine: Machine) -> str:
    """The command that raises the limit above a budget that it is below of; "" if none does."""
    if not machine.limit < budget.total <= machine.raised_limit:
        return ""
    return raise_limit(budget.total, machine.raised_limit)


def _ceiling(need: sizing.Need, machine: Machine) -> str:
    if not machine.bandwidth:
        return ""
    return f"at most {need.ceiling(machine.bandwidth, cached=False):.0f} tok/s"


def _at_most(config: ModelConfig, context: int | None) -> int | None:
    """Of a setting for all models what this one has."""
    return None if context is None else min(context, config.text.max_position_embeddings)


def conversion(config: ModelConfig, machine: Machine, source: str, context: int) -> str:
    """The command that makes of a folder what this machine can run; "" if there is none."""
    try:
        choice = sizing.choose(config, machine, context)
    except (DoesNotFit, UsageError):  # too large with any recipe; so few bits that none is smaller
        return ""
    return f"mlx-maverick convert {shlex.quote(source)} --recipe {choice.recipe.name}"


def ways(asked: Asked, here: Here) -> list[Way]:
    """What to change so that what was asked for can be loaded, the least change first; nothing if
    all is well, or nothing helps. Every way was tried by what loading itself reckons with."""
    folder = hub.local(asked.model) or hub.cached(asked.model)
    if folder is None:
        return [Way(Kind.COPY, f"hf download {shlex.quote(asked.model)}")]
    config, checkpoint = ModelConfig.from_folder(folder), Checkpoint.open(folder)
    case = _Case(folder, config, checkpoint, here)
    if found.is_source(config, checkpoint):
        return case.convert(asked)
    if case.fits(asked):
        return []
    possible: list[Way] = []
    for way in case.candidates(asked):
        kinds = {other.kind for other in possible}
        known = way.kind in kinds or (way.kind is Kind.AUTO and Kind.STREAM in kinds)
        changed = way.applied(asked)
        if not known and changed != asked and case.fits(changed):
            possible.append(way)
    possible += case.raised(asked)
    return possible or case.convert(asked)


@dataclass(frozen=True)
class _Case:
    """One folder on this machine."""

    folder: Path
    config: ModelConfig
    checkpoint: Checkpoint
    here: Here

    def budget(self, asked: Asked) -> Budget:
        """As `loading.Unread` has it. Raises UsageError or DoesNotFit as that does."""
        config, element = self.config, self.here.element
        asked.kv.check(config.text)
        context = sizing.checked_context(config, asked.context)
        if context < 2:
            raise UsageError(f"a context of {context} tokens has room for nothing")
        weights = self.checkpoint.memory(element)
        resident = Budget.of(config, weights, context, element_bytes=element, options=asked.kv)
        limit, largest = self.here.machine.limit, self.here.largest
        return decide(self.checkpoint, config, resident, asked.experts, limit, largest=largest)[0]

    def fits(self, asked: Asked) -> bool:
        try:
            memory.check(self.budget(asked), self.here.machine.limit, asked.model)
        except (DoesNotFit, UsageError):
            return False
        return True

    def candidates(self, asked: Asked) -> Iterator[Way]:
        """What may help; not all of it does. Of a kind the first that does is meant."""
        text, limit = self.config.text, self.here.machine.limit
        if any(text.moe_layers):
            yield Way(Kind.STREAM)
        if asked.experts != ExpertOptions():
            yield Way(Kind.AUTO)
        most = text.max_position_embeddings
        if asked.context is not None and not 2 <= asked.context <= most:
            possible = most if asked.context > most else min(memory.DEFAULT_CONTEXT, most)
            yield Way(Kind.CONTEXT, possible)
            asked = replace(asked, context=possible)
        longest = self._longest(asked)
        if longest:
            yield Way(Kind.CONTEXT, longest)
        if (budget := self._budget(asked)) and (options := fewer_bits(budget, limit)):
            yield Way(Kind.KV_BITS, options.bits)
        if asked.kv.bits is not None:
            yield Way(Kind.KV_BITS)
        if asked.experts != ExpertOptions():  # else the program streams by itself
            streamed = self._longest(replace(asked, experts=ExpertOptions(Mode.STREAM)))
            if streamed > longest:
                yield Way(Kind.STREAM, streamed)

    def _longest(self, asked: Asked) -> int:
        """The longest context that fits; 0 if none does that is shorter and worth while."""
        if (budget := self._budget(asked)) is None:
            return 0
        longest = longest_context(budget, self.here.machine.limit)
        return longest if MIN_CONTEXT <= longest < budget.context else 0

    def _budget(self, asked: Asked) -> Budget | None:
        try:
            return self.budget(asked)
        except (DoesNotFit, UsageError):
            return None

    def raised(self, asked: Asked) -> list[Way]:
        """The command that raises the GPU's limit, if that is enough."""
        budget = self._budget(asked)
        command = _raised(budget, self.here.machine) if budget else ""
        return [Way(Kind.COPY, command)] if command else []

    def convert(self, asked: Asked) -> list[Way]:
        """The command that makes of it what runs here, if anything does."""
        context = sizing.checked_context(self.config, _at_most(self.config, asked.context))
        command = conversion(self.config, self.here.machine, str(self.folder), context)
        return [Way(Kind.COPY, command)] if command else []


def main(request: dict[str, Any]) -> Iterator[str]:
    """The lines that answer a request. Raises UsageError for one that is none."""
    match request:
        case {"find": [*names]}:
            load = _load({**request, "model": ""})
            for fact in facts([str(name) for name in names], load.context, load.kv):
                yield encode(fact)
        case {"ways": dict(load)}:
            for way in ways(_load(load), Here.ask()):
                yield json.dumps(asdict(way))
        case _:
            raise UsageError("a request is to find models or ways")


def _load(raw: dict[str, Any]) -> Asked:
    known = {key: raw[key] for key in ("model", "context", "kv", "experts") if key in raw}
    load = protocol.parse({"op": "load", **known})
    assert isinstance(load, protocol.Load)  # of that op
    return Asked(load.model, load.context, load.kv, load.experts)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints is no answer
    try:
        for line in main(json.loads(sys.argv[1])):
            answers.write(line + "\n")
            answers.flush()
    except MaverickError as e:
        sys.exit(str(e))
