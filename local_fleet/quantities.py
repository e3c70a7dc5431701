"""Quantities as people read them: a value, its unit, three digits at most; a dash where there is no data."""

from __future__ import annotations

NO_DATA = "–"


def seconds(value_s: float | None) -> str:
    """`8.4 ms`, `310 ms`, `1.25 s`, `73 s`."""
    if value_s is None:
        return NO_DATA
    if abs(value_s) < 0.9995:
        return f"{value_s * 1000:.3g} ms"
    return f"{value_s:.2f} s" if abs(value_s) < 9.995 else f"{value_s:,.0f} s"


def clock(value_s: float) -> str:
    """`1:05`; for moments of a replay."""
    whole_s = int(value_s)
    return f"{whole_s // 60}:{whole_s % 60:02d}"


def data(value_bytes: float | None) -> str:
    """`0 B`, `412 kB`, `1.3 GB`; powers of 1000."""
    if value_bytes is None:
        return NO_DATA
    size = float(value_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000.0
    return f"{size:,.3g} TB"


def percent(ratio: float | None) -> str:
    """`0 %`, `0.42 %`, `67 %`."""
    if ratio is None:
        return NO_DATA
    value = ratio * 100.0
    return f"{value:.0f} %" if value == 0 or abs(value) >= 9.95 else f"{value:.2g} %"


def rate(value_per_s: float | None) -> str:
    """`31/s`, `4.2/s`."""
    if value_per_s is None:
        return NO_DATA
    return f"{value_per_s:.0f}/s" if abs(value_per_s) >= 9.95 or value_per_s == 0 else f"{value_per_s:.1f}/s"


def number(value: float | None, digits: int = 2) -> str:
    """A count with thousands apart, or a small number with some digits after the point."""
    if value is None:
        return NO_DATA
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.{digits}f}"
