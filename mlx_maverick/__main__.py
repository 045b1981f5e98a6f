"""`python -m mlx_maverick` is the same as `mlx-maverick`."""

from .cli.main import main

raise SystemExit(main())
