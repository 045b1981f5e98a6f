"""`python -m mlx_maverick` is the same as `mlx-maverick`."""

from .cli.entry import entry

entry()
