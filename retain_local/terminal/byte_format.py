"""Byte counts for people."""


def format_bytes(n: float) -> str:
    """ "1.5 MB" for 1,500,000: three digits or so, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n >= size:
            return f"{n / size:,.{0 if n >= 100 * size else 1}f} {unit}"
    return f"{n:.0f} B"
