"""Where a model is: a folder, a repository that the Hub's cache already holds, or `demo`, which
comes with the package.

Downloads nothing: hundreds of gigabytes are fetched when asked for, not by the way.
"""

import os
import re
from pathlib import Path

from .errors import NotFound, UsageError

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "models" / DEMO


def resolve(model: str | Path) -> Path:
    """The folder of a model given as a path, as `owner/name` in the Hub's cache, or as `demo`.

    Raises NotFound, with the command that downloads a repository, and UsageError for what is
    neither.
    """
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"{model!r} is not a path or a repository; give a model folder")
    if folder := local(model) or cached(str(model)):
        return folder
    raise NotFound(
        f"{model} is neither a folder nor in the Hub's cache; if it is a repository, "
        f"run 'hf download {model}' first"
    )


def is_demo(model: str | Path) -> bool:
    """Whether this is the name of the model that comes with the package: not where a folder of
    that name holds a model, and never as a path."""
    return model == DEMO and not Path(DEMO, "config.json").is_file()


def local(model: str | Path) -> Path | None:
    """The folder of a model given as a path, or as `demo`; None for what may be a repository.

    Raises NotFound for what can be neither.
    """
    try:
        if is_demo(model):
            return DEMO_FOLDER
        path = Path(model).expanduser()
        if path.is_dir():
            return path
        if path.exists():
            raise NotFound(f"{path} is a file; give the model's folder")
    except (RuntimeError, ValueError):  # ~ of nobody; a NUL in the name
        raise NotFound(f"{str(model)!r} does not exist; give a model folder") from None
    except OSError as e:  # a name too long, a folder that may not be looked into
        raise NotFound(f"{model} cannot be found ({e.strerror}); give a model folder") from None
    if not _REPO.fullmatch(str(model)) or str(model).startswith("."):
        raise NotFound(f"{model} does not exist; give a model folder or a Hub repository")
    return None


def cached(repo: str, revision: str | None = None) -> Path | None:
    """The snapshot of a repository in the Hub's cache, perhaps with only some of its files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
