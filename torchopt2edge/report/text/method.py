"""How a run was measured, out of its receipts, and what that cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.text.row_view import Line


def method(table: Sequence[Line], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, how) of the measurement, from the receipts and the environment."""
    sound = [line for line in table if not line.failed]
    receipts = [line.row.facts for line in sound]
    said = [
        ("device", _distinct(line.row.device for line in sound)),
        ("protocol", _distinct(line.row.protocol for line in sound)),
        (
            "rounds",
            _span([line.get("rounds") or len(line.row.latency_ns) or None for line in sound]),
        ),
        ("timed inferences", _span([line.get("samples") for line in sound])),
        ("threads", _distinct(facts.get("threads") for facts in receipts)),
        ("runtimes", _distinct(_runtime(facts) for facts in receipts)),
        ("samples of the task metric", _distinct(facts.get("n_eval") for facts in receipts)),
    ]
    known = {what for what, _ in said}
    said += [
        (str(key).replace("_", " "), value_text(value))
        for key, value in environment.items()
        if key not in known and key != "command"
    ]
    return [(what, how) for what, how in said if how]


def _runtime(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('runtime') or ''} {facts.get('runtime_version') or ''}".strip()


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _span(values: Sequence[float | None]) -> str:
    known = [round(value) for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low}" if low == high else f"{low} to {high}"


def value_text(value: object) -> str:
    """Return a setting, however nested, on one line; "" for None."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, Mapping) for item in value)
        return ("; " if nested else ", ").join(map(value_text, value))
    return "" if value is None else str(value)


def limits(table: Sequence[Line]) -> list[str]:
    """Return what this report cannot tell; each one only where it holds."""
    said = [
        "A latency holds for this device, these runtime versions and this number of threads. A "
        "desktop or server processor is not a phone: the order of the candidates may differ "
        "there, so measure on the device that you ship to."
    ]
    if table and table[0].metric:
        said.append(
            "The intervals of the task metric come from the samples of this evaluation set; they "
            "say nothing about data from elsewhere."
        )
    said.append(
        "The latency is of one inference after another with the inputs already in memory: the "
        "camera, the decoding and the preparation of the image are outside the clock."
    )
    return said
