"""Values read from facts, where a text ("unavailable") or nothing may stand in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def finite_number(value: object) -> float | None:
    """Return a number.

    Args:
        value: What a fact holds.

    Returns:
        The number if it is finite, None for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def decibel(value: object) -> float | None:
    """Return a number of decibels.

    Args:
        value: What a fact holds; strict JSON keeps infinity as the text "inf".

    Returns:
        The number, which may be infinite; None for anything else.
    """
    if value in ("inf", "-inf"):
        return float(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping.

    Args:
        value: What a fact holds.

    Returns:
        The mapping, an empty one for anything else.
    """
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list.

    Args:
        value: What a fact holds.

    Returns:
        Those elements that are mappings; none where it is no list.
    """
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return [item for item in items if isinstance(item, Mapping)]
