"""Hours, dollars and bytes as a person reads them."""

from __future__ import annotations

_MINUTES = 60


def hours(value: float) -> str:
    """``"12 s"``, ``"12 min"``, ``"5.3 hours"``, ``"74 hours"``."""
    if value * _MINUTES * 60 < 90:
        return f"{value * _MINUTES * 60:.0f} s"
    if value * _MINUTES < 90:
        return f"{value * _MINUTES:.0f} min"
    return f"{value:.1f} hours" if value < 10 else f"{value:.0f} hours"


def dollars(value: float) -> str:
    """``"$0.07"``, ``"$4.20"``, ``"$1,092"``."""
    return f"${value:.2f}" if value < 10 else f"${value:,.0f}"


def bytes_in_words(value: int) -> str:
    """``"512 MiB"``, ``"14.5 GiB"``."""
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"
