"""The models on this machine: the folders they are looked for in, and what each one is.

Knows nothing of what fits a machine, and loads neither MLX nor Textual. Of a model config.json
and the headers of its files are read, never its weights; of folders only so many are looked at,
and only for so long.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ... import hub
from ...checkpoint import INDEX, SINGLE, Checkpoint
from ...config import ModelConfig, read_json
from ...convert.manifest import MANIFEST
from ...errors import MaverickError
from ...names import TensorClass, canonical, tensor_class
from .facts import Found, Remark

MOST_FOLDERS = 5000  # looked at
MOST_MODELS = 200
SECONDS = 15.0
MOST_CONFIG = 10 << 20  # bytes of a config.json; real ones have 5 kB
KINDS = ("llama4", "llama4_text")
# Where LM Studio keeps models, as publisher/model: now, and before 2025.
LM_STUDIO = (".lmstudio/models", ".cache/lm-studio/models")
PARTIAL = ".partial"  # what `convert` has not finished

Candidate = tuple[str, str, Path]  # what loading takes, its name, its folder


def models(
    asked: Iterable[str] = (),
    folder: Path | None = None,
    home: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Found | Remark]:
    """The Llama 4 models on this machine, each once: those `asked` for (recent ones, and what
    settings name), those in `folder` (None: the current one), LM Studio's, the Hub's cache,
    and the one that comes with the package.

    A Llama 4 that cannot be used, and one asked for that is gone, is a Remark; all else that is
    no such model is left out.
    """
    search = _Search(clock)
    yield from search.asked(asked)
    here = _current() if folder is None else folder
    if here is not None:
        yield from search.through([_local(here), *map(_local, search.inside(here))])
    for name in LM_STUDIO:
        publishers = search.inside((home or Path.home()) / name)
        for publisher in publishers:
            yield from search.through([_local(publisher), *map(_local, search.inside(publisher))])
    yield from search.through(search.repositories())
    yield from search.shipped()
    if search.over:
        yield Remark(search.over)


class _Search:
    """What was looked at, and whether there is more to be."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._end = clock, clock() + SECONDS
        self._seen: set[str] = set()
        self._folders = self._models = 0
        self.over = ""  # why it ended early

    def asked(self, names: Iterable[str]) -> Iterator[Found | Remark]:
        for name in names:
            try:
                local = hub.local(name)
                path = local or hub.cached(name)
            except MaverickError as e:
                yield Remark(str(e))
                continue
            if path is None:
                yield Remark(f"{name} is not in the Hub's cache any more")
            else:
                yield from self.through([_local(path) if local else (name, name, path)])

    def shipped(self) -> Iterator[Found]:
        """The one that comes with the package, if it was not asked for; however long the
        search was."""
        if os.path.realpath(hub.DEMO_FOLDER) not in self._seen and _is_llama4(hub.DEMO_FOLDER):
            yield describe(*_local(hub.DEMO_FOLDER))

    def through(self, candidates: Iterable[Candidate]) -> Iterator[Found | Remark]:
        """Those of the candidates that are models, and not known yet."""
        for model, name, folder in candidates:
            if not self._go_on():
                return
            real = os.path.realpath(folder)
            if real in self._seen or not _is_llama4(folder):
                continue
            self._seen.add(real)
            try:
                found = describe(model, name, folder)
            except MaverickError as e:
                yield Remark(f"{name} cannot be used: {e}")
                continue
            except (OSError, RecursionError) as e:  # gone by now; a header nested without end
                yield Remark(f"{name} cannot be used: {getattr(e, 'strerror', '') or e}")
                continue
            self._models += 1
            yield found

    def inside(self, folder: Path) -> Iterator[Path]:
        """The folders in a folder, by name, but for hidden and unfinished ones."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in self._counted(entries) if _may_be_model(e))
        except OSError:  # not there, or not to be looked into
            return
        yield from (folder / name for name in names)

    def repositories(self) -> Iterator[Candidate]:
        """What of the Hub's cache loading would take by name."""
        from huggingface_hub.constants import HF_HUB_CACHE

        for folder in self.inside(Path(HF_HUB_CACHE)):
            kind, *names = folder.name.split("--")  # which no name on the Hub holds
            repo = "/".join(names)
            if kind == "models" and len(names) == 2 and (path := hub.cached(repo)):
                yield repo, repo, path

    def _counted(self, entries: Iterable["os.DirEntry[str]"]) -> "Iterator[os.DirEntry[str]]":
        for entry in entries:
            self._folders += 1
            if not self._go_on():
                return
            yield entry

    def _go_on(self) -> bool:
        if self._folders > MOST_FOLDERS:
            self.over = f"the search ended after {MOST_FOLDERS:,} files and folders"
        elif self._models >= MOST_MODELS:
            self.over = f"the search ended after {MOST_MODELS} models"
        elif self._clock() > self._end:
            self.over = f"the search ended after {SECONDS:.0f} seconds"
        return not self.over


def _current() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was deleted
        return None


def _local(folder: Path) -> Candidate:
    if folder == hub.DEMO_FOLDER and hub.is_demo(hub.DEMO):
        return hub.DEMO, hub.DEMO, folder
    folder = folder.absolute()
    return str(folder), folder.name or str(folder), folder


def _may_be_model(entry: "os.DirEntry[str]") -> bool:
    try:
        hidden = entry.name.startswith(".") or entry.name.endswith(PARTIAL)
        return not hidden and entry.is_dir()
    except OSError:
        return False


def _is_llama4(folder: Path) -> bool:
    """Whether a folder has weights, and says that they are a Llama 4's; no error of reading it
    counts, as most folders are anything."""
    config = folder / "config.json"
    try:
        about = config.stat()  # of a pipe the end would never come
        if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_CONFIG:
            return False
        if not any((folder / name).is_file() for name in (INDEX, SINGLE)):
            return False
        return read_json(config).get("model_type") in KINDS
    except (MaverickError, OSError, RecursionError, ValueError):
        return False


def describe(model: str, name: str, folder: Path) -> Found:
    """What a model folder is. Raises NotFound or BadCheckpoint as loading it would, as far as
    its headers tell."""
    config, checkpoint = ModelConfig.from_folder(folder), Checkpoint.open(folder)
    classes = {tensor_class(canonical(tensor)) for tensor in checkpoint.tensors}
    where = _tilde(folder.parent)
    if folder == hub.DEMO_FOLDER:
        where = "comes with mlx-maverick"
    elif model == name and not Path(model).is_absolute():
        where = "the Hub's cache"
    return Found(
        model=model,
        name=name,
        where=where,
        disk=checkpoint.nbytes,
        bits=_bits(folder, config, checkpoint),
        vision=config.vision is not None and TensorClass.VISION in classes,
    )


def is_source(config: ModelConfig, checkpoint: Checkpoint) -> bool:
    """Whether a folder is in a format to convert from, that cannot be run."""
    fp8 = any(tensor.dtype.startswith("F8_") for tensor in checkpoint.tensors.values())
    return config.source_quantization is not None or fp8


def _bits(folder: Path, config: ModelConfig, checkpoint: Checkpoint) -> str:
    """How the weights are stored, in a word: most of them are routed experts'."""
    if (folder / MANIFEST).is_file():
        recipe = read_json(folder / MANIFEST).get("recipe")
        if isinstance(recipe, dict) and recipe.get("name"):
            return str(recipe["name"])
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    if is_source(config, checkpoint):
        return "FP8" if any(t.startswith("F8_") for t in sizes) else str(config.source_quantization)
    if config.quantization:
        layer = config.text.moe_layers.index(True) if any(config.text.moe_layers) else 0
        experts = f"language_model.model.layers.{layer}.feed_forward.experts.gate_proj"
        if quant := config.quantization.of(experts):
            return f"{quant.bits} bits"
    return max(sizes, key=lambda dtype: sizes[dtype], default="empty")


def _tilde(path: Path) -> str:
    home = Path.home()
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)
