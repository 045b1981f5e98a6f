"""Sizes in words. Decimal units, as disks, downloads and model cards are measured."""

GB = 10**9


def gb(nbytes: float) -> str:
    """Bytes as gigabytes, or smaller units when small: '227.1 GB', '9.3 MB', '0.5 kB'."""
    for unit, size in (("GB", GB), ("MB", 10**6)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 1000:.1f} kB"
