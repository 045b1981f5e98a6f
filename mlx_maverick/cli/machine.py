"""What figures hold for: machine, system and versions.

Knows nothing of what is measured.
"""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version

from .. import pressure
from ..units import gb

PACKAGES = ("mlx-maverick", "mlx", "mlx-lm", "numpy", "pillow")


def machine() -> dict[str, str]:
    """What the figures hold for."""
    import mlx.core as mx

    info = mx.device_info()
    mac = platform.mac_ver()[0]
    system = f"macOS {mac}" if mac else f"Linux {platform.release().split('-')[0]}"
    return {
        "device": f"{info.get('device_name', 'unknown')} ({mx.default_device().type.name})",
        "memory": gb(pressure.read().total),
        "system": f"{system} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def aligned(facts: Mapping[str, str]) -> Iterator[str]:
    """A line for each fact, name and value in columns."""
    width = max(map(len, facts))
    return (f"{name:<{width}}  {value}" for name, value in facts.items())
