"""Numbers as text: enough digits to tell two apart, and no more.

A value that was not measured is None and is written as "", never as 0.
"""

from __future__ import annotations

import math

MINUS = "\u2212"


def decimals(value: float, digits: int = 3) -> int:
    """Return how many decimals show some significant digits of a value.

    Args:
        value: The value.
        digits: How many significant digits.

    Returns:
        The number of decimals; 0 for 0 and for a value that is not finite.
    """
    if not math.isfinite(value) or value == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def fixed(value: float | None, places: int) -> str:
    """Return a value with a fixed number of decimals.

    Args:
        value: The value, or None.
        places: How many decimals.

    Returns:
        The text with a real minus sign and no "-0.0"; "" for None, "?" for NaN, "∞" for infinity.
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "?" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    text = f"{value:.{places}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", MINUS)


def significant(value: float | None) -> str:
    """Return a value with three significant digits.

    Args:
        value: The value, or None.

    Returns:
        The text; whole numbers are never cut, "" for None.
    """
    return "" if value is None else fixed(value, decimals(value))


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return a value with its interval.

    Args:
        value: The value, or None.
        low: The lower end, or None.
        high: The upper end, or None.

    Returns:
        "1.83 (1.79–1.88)", with more digits where three would hide the interval's width; the
        value alone where an end is not known.
    """
    if value is None or low is None or high is None:
        return significant(value)
    places = decimals(value)
    while fixed(low, places) == fixed(high, places) and low != high and places < 6:
        places += 1
    return f"{fixed(value, places)} ({fixed(low, places)}–{fixed(high, places)})"


def fixed_interval(value: float | None, low: float | None, high: float | None, places: int) -> str:
    """Return a value with its interval and a fixed number of decimals.

    Args:
        value: The value, or None.
        low: The lower end, or None.
        high: The upper end, or None.
        places: How many decimals.

    Returns:
        "97.2 (96.1–98.1)"; the value alone where an end is not known.
    """
    if value is None or low is None or high is None:
        return fixed(value, places)
    return f"{fixed(value, places)} ({fixed(low, places)}–{fixed(high, places)})"


def signed(value: float | None, places: int) -> str:
    """Return a difference with its sign.

    Args:
        value: The difference, or None.
        places: How many decimals.

    Returns:
        "+0.1", "−0.3" or "0.0"; "" for None.
    """
    text = fixed(value, places)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def times(value: float | None) -> str:
    """Return a ratio.

    Args:
        value: The ratio, or None.

    Returns:
        "1.83×", "24.1×" or "310×"; "" for None.
    """
    return "" if value is None else f"{fixed(value, min(2, decimals(value)))}×"


def times_interval(ratio: tuple[float, float, float]) -> str:
    """Return a ratio with its interval.

    Args:
        ratio: (ratio, low, high).

    Returns:
        "1.83× (1.79–1.88)".
    """
    value, low, high = ratio
    places = min(2, decimals(value))
    while places < 4 and fixed(low, places) == fixed(high, places) and low != high:
        places += 1
    return f"{fixed(value, places)}× ({fixed(low, places)}–{fixed(high, places)})"


def count(value: float | None) -> str:
    """Return a large count.

    Args:
        value: The count, or None.

    Returns:
        "512", "12.3 k", "2.23 M" or "4.09 G"; "" for None.
    """
    if value is None:
        return ""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{significant(value / size)}{unit}"
    return fixed(value, 0)


def duration(seconds: float | None) -> str:
    """Return a length of time.

    Args:
        seconds: The seconds, or None.

    Returns:
        "0.4 s", "12 s", "3 min 20 s" or "2 h 05 min"; "" for None.
    """
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
