"""One stage of a run as a reader sees it: what it cost, and what it bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.text.numbers import duration
from torchopt2edge.report.text.row_view import is_share


def number(stage: Mapping[str, Any], name: str) -> float | None:
    """Return a number the stage or its facts hold; a text in its place is not one."""
    value = stage.get(name, (stage.get("facts") or {}).get(name))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def cost(stage: Mapping[str, Any]) -> str:
    """Return how long it took, or that it was kept."""
    return "kept from before" if stage.get("cached") else duration(number(stage, "seconds"))


def zeros(stage: Mapping[str, Any]) -> str:
    """Return the share of its net's weights that are zero, in per cent, "" when not told."""
    share = number(stage, "zeros")
    return "" if share is None else f"{100 * share:.1f}"


def quality(stage: Mapping[str, Any], metric: str) -> float | None:
    """Return the task metric of its net; a stage may name the split it was taken on."""
    names = (metric, f"{metric}_test", f"{metric}_val") if metric else ()
    return next((v for name in names if (v := number(stage, name)) is not None), None)


def quality_text(stage: Mapping[str, Any], metric: str) -> str:
    """Return the task metric of its net with its unit, "" without one."""
    value = quality(stage, metric)
    return "" if value is None else f"{value:.4g}{' %' if is_share(metric) else ''}"


def warnings(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what stages warn of: a teacher that was no help."""
    facts = {str(stage.get("name", "?")): stage.get("facts") or {} for stage in stages}
    return [f"{name}: {one['warning']}" for name, one in facts.items() if one.get("warning")]
