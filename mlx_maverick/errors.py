"""The errors a user may see: one line each, saying what, why and what to do next.

Knows nothing of terminals; `cli` prints them and turns `exit_code` into the process's.
"""


class MaverickError(Exception):
    """Something failed, and the message says what to do about it."""

    exit_code = 1


class UsageError(MaverickError):
    """What was asked for makes no sense: an argument, a prompt, a recipe."""

    exit_code = 2


class NotFound(MaverickError):
    """A folder, file or repository that is not there."""

    exit_code = 3


class DoesNotFit(MaverickError):
    """More memory or disk than this machine has."""

    exit_code = 4


class BadCheckpoint(MaverickError):
    """A model folder that is damaged, incomplete, or not a Llama 4."""


class BadImage(MaverickError):
    """A picture that cannot be used; the message that holds it is refused."""


class Interrupted(MaverickError):
    """Stopped by a signal (SIGINT, SIGTERM)."""

    exit_code = 130
