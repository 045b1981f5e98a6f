"""Where a source is, and what it is called in maverick.json.

Knows nothing of what is in it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_maverick import hub
from mlx_maverick.checkpoint import INDEX, SINGLE, Checkpoint, Tensor
from mlx_maverick.errors import MaverickError, UsageError
from mlx_maverick.files import Files, Folder
from mlx_maverick.fingerprint import sample

SAMPLED_BYTES = 4096
ALWAYS = ("config.json", "tokenizer.json", "tokenizer_config.json")


@contextmanager
def opened(
    source: str | Path, revision: str | None, begun: Mapping[str, Any] | None = None
) -> Iterator[Files]:
    """The files of a local folder; of a repository in the Hub's cache, if it is all there; or
    of one on the Hub, at one commit: the one of the conversion that was `begun` (see journal),
    unless a `revision` is named.

    Raises NotFound, UsageError (a revision of a folder), MaverickError (access, network).
    """
    if folder := hub.local(source):
        if revision:
            raise UsageError(f"{folder} is a folder and has no revision {revision}; leave it out")
        yield Folder(folder)
        return
    repo = str(source)
    before = (begun or {}).get("source", {})
    if revision is None and before.get("repo") == repo:
        revision = before.get("commit")
    if (folder := hub.cached(repo, revision)) and _whole(folder):
        yield Folder(folder)
        return

    from .remote import Repository  # loads huggingface_hub

    repository = Repository.open(repo, revision)
    try:
        yield repository
    finally:
        repository.close()


def describe(files: Files) -> dict[str, Any]:
    """Repository and commit; or a folder's name, and a sample of its weights: two folders of
    one name and shape may hold different models."""
    commit = getattr(files, "commit", None)
    if commit:
        return {"repo": files.where, "commit": commit}
    folder = Path(files.where).resolve()
    # .../models--<owner>--<name>/snapshots/<commit>, as huggingface_hub lays it out
    if folder.parent.name == "snapshots":
        kind, *names = folder.parent.parent.name.split("--")
        if kind == "models" and names:
            return {"repo": "/".join(names), "commit": folder.name}
    return {"folder": folder.name, "commit": None, "sample": _sample(files)}


def _sample(files: Files) -> str:
    """A hash of some bytes of every weight file, those of its largest tensor."""
    largest: dict[str, Tensor] = {}
    for tensor in Checkpoint.of(files).tensors.values():
        held = largest.get(tensor.file.name)
        if held is None or tensor.nbytes > held.nbytes:
            largest[tensor.file.name] = tensor
    return sample(files, [largest[name] for name in sorted(largest)], SAMPLED_BYTES)


def _whole(folder: Path) -> bool:
    """Whether all is there: `hf download` may have been asked for some files only, the weights
    for instance. What comes with every Llama 4 is asked for here."""
    names = set(Folder(folder).sizes)
    if not names.issuperset(ALWAYS):
        return False
    if INDEX not in names:
        return SINGLE in names
    try:
        Checkpoint.open(folder)
    except MaverickError:
        return False
    return True
