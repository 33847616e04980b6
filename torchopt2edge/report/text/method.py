"""How a run was measured, read from the rows' facts, and the limits of the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchopt2edge.report.text.row_view import RowView


def method(views: Sequence[RowView], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how a run was measured.

    Args:
        views: The run's rows.
        environment: ``environment`` of ``context.json``; {} leaves it out.

    Returns:
        (what, how) pairs; those without a value are left out.
    """
    sound = [view for view in views if not view.failed]
    facts = [view.row.facts for view in sound]
    pairs = [
        ("device", _distinct(view.row.device for view in sound)),
        ("protocol", _distinct(view.row.protocol for view in sound)),
        (
            "rounds",
            _range([view.value("rounds") or len(view.row.latency_ns) or None for view in sound]),
        ),
        ("timed inferences", _range([view.value("samples") for view in sound])),
        ("threads", _distinct(each.get("threads") for each in facts)),
        ("runtimes", _distinct(_runtime(each) for each in facts)),
        ("samples of the task metric", _distinct(each.get("n_eval") for each in facts)),
    ]
    known = {what for what, _ in pairs}
    pairs += [
        (str(key).replace("_", " "), value_text(value))
        for key, value in environment.items()
        if key not in known and key != "command"
    ]
    return [(what, how) for what, how in pairs if how]


def _runtime(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('runtime') or ''} {facts.get('runtime_version') or ''}".strip()


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _range(values: Sequence[float | None]) -> str:
    known = [round(value) for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low} to {high}"


def value_text(value: object) -> str:
    """Return a setting, however nested, on one line.

    Args:
        value: A plain value, a list or a mapping.

    Returns:
        The text; "" for None.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, Mapping) for item in value)
        return ("; " if nested else ", ").join(map(value_text, value))
    return "" if value is None else str(value)


def limits(views: Sequence[RowView]) -> list[str]:
    """Return the limits of a run's result.

    Args:
        views: The run's rows.

    Returns:
        The sentences that hold for this run.
    """
    sentences = [
        "A latency holds for this device, these runtime versions and this number of threads. A "
        "desktop or server processor is not a phone: the order of the candidates may differ "
        "there, so measure on the device that you ship to."
    ]
    if views and views[0].metric:
        sentences.append(
            "The intervals of the task metric come from the samples of this evaluation set; they "
            "do not cover other data."
        )
    sentences.append(
        "The latency is of one inference after another with the inputs already in memory: the "
        "camera, the decoding and the preprocessing of the image are not timed."
    )
    return sentences
