"""One stage of a run as text: its duration, its size and its task metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.text.facts import finite_number, mapping
from torchopt2edge.report.text.numbers import duration
from torchopt2edge.report.text.row_view import is_percent

Stage = Mapping[str, Any]
"""One entry of ``stages`` in ``context.json``: ``name``, ``seconds``, ``cached``, ``facts``."""


def number(stage: Stage, name: str) -> float | None:
    """Return a number of a stage or of its facts.

    Args:
        stage: The stage.
        name: The number's name.

    Returns:
        The number, or None where it is missing or not finite.
    """
    return finite_number(stage.get(name, mapping(stage.get("facts")).get(name)))


def time_text(stage: Stage) -> str:
    """Return how long a stage took.

    Args:
        stage: The stage.

    Returns:
        The duration; "from cache" where the store had its result.
    """
    return "from cache" if stage.get("cached") else duration(number(stage, "seconds"))


def zeros(stage: Stage) -> str:
    """Return the share of a model's weights that are zero.

    Args:
        stage: The stage that made the model.

    Returns:
        The share in per cent, "" where it is not known.
    """
    share = number(stage, "zeros")
    return "" if share is None else f"{100 * share:.1f}"


def quality(stage: Stage, metric: str) -> float | None:
    """Return the task metric of the model that a stage made.

    Args:
        stage: The stage.
        metric: The metric's name; a stage may add the split (``top1_test``, ``top1_val``).

    Returns:
        The value, or None where it was not evaluated.
    """
    names = (metric, f"{metric}_test", f"{metric}_val") if metric else ()
    return next((v for name in names if (v := number(stage, name)) is not None), None)


def quality_text(stage: Stage, metric: str) -> str:
    """Return the task metric of the model that a stage made, with its unit.

    Args:
        stage: The stage.
        metric: The metric's name.

    Returns:
        The text, "" where it was not evaluated.
    """
    value = quality(stage, metric)
    return "" if value is None else f"{value:.4g}{' %' if is_percent(metric) else ''}"


def warnings(stages: Sequence[Stage]) -> list[str]:
    """Return the stages' own warnings, for example of a teacher that did not help.

    Args:
        stages: The stages of a run.

    Returns:
        A sentence for each stage that has a ``warning`` among its facts.
    """
    facts = {str(stage.get("name", "?")): mapping(stage.get("facts")) for stage in stages}
    return [f"{name}: {each['warning']}" for name, each in facts.items() if each.get("warning")]
