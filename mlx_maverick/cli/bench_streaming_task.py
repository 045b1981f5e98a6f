"""What a process of `bench_streaming` is asked for, and what it says.

Knows nothing of how it is measured.
"""

from dataclasses import dataclass, field

from .bench_subject import Figure

DISK = "plain reads"  # no way to run a model, but measured in turn as well


@dataclass(frozen=True)
class Task:
    """What to measure, with what."""

    program: str  # a key of PROGRAMS, or DISK
    folder: str
    memory: int  # bytes for experts
    look_ahead: bool  # of this package, as `file_cache`
    file_cache: bool
    warm_tokens: int  # decoded before what is measured
    prompt: int
    new_tokens: int

    @property
    def context(self) -> int:
        return max(self.prompt, self.warm_tokens + self.new_tokens) + 2


@dataclass(frozen=True)
class Report:
    """All of one process."""

    figures: list[Figure] = field(default_factory=list)
    likeliest: list[int] = field(default_factory=list)  # the likeliest token at each position
    experts: int = 0  # of a layer that has some
    # Which of them took each token, by layer: of decoding, and of the prompt. Of a prompt's tokens
    # the last layer sees one.
    decoded: list[list[int]] = field(default_factory=list)
    prefilled: list[list[int]] = field(default_factory=list)
