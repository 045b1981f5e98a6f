"""Byte ranges of a repository on the Hub, over HTTPS. `Repository` is all that others use."""

from .repository import Repository

__all__ = ["Repository"]
