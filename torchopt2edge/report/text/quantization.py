"""How the models were quantized, in words and tables: what was decided, and what the files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchopt2edge.report.text.numbers import count, fixed
from torchopt2edge.report.text.row_view import Line, plain

COSTLIEST = 10
FLOATS = ("fp32", "fp16")
_OF_INTEGERS = ("int8_macs", "integer_ops", "float_ops", "unfused_qdq")
_HOLDS = (
    ("ranges", "ranges_origin", str),
    ("ranges matched %", "ranges_matched", lambda value: fixed(float(value), 1)),
    ("MACs in int8 %", "int8_macs", lambda value: fixed(float(value), 1)),
    ("integer ops", "integer_ops", lambda value: str(sum(value.values()))),
    ("float ops left", "float_ops", lambda value: _counted(value)),
    ("Q/DQ not fused", "unfused_qdq", str),
    ("transposes", "transposes", str),
    ("partitions", "partitions", str),
)


def holds(table: Sequence[Line]) -> list[list[str]]:
    """Return the cells of "what the files hold", read back from each; header first."""
    files = [line for line in table if line.row.backend != "torch" and not line.checks]
    sound = [line for line in files if not line.failed]
    body = [[line.name, *(_cell(line, key, show) for _, key, show in _HOLDS)] for line in sound]
    head = ["candidate", *(title for title, _, _ in _HOLDS)]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    if len(kept) < 2:
        return []
    return [[row[i] for i in kept] for row in (head, *body)]


def notes(table: Sequence[Line]) -> list[str]:
    """Return what must be known of a file, each sentence once with the rows that it is about."""
    about: dict[str, list[str]] = {}
    for line in table:
        for said in line.row.facts.get("notes") or ():
            about.setdefault(plain(said), []).append(line.name)
    return [f"{', '.join(names)}: {said}" for said, names in about.items()]


def _cell(line: Line, key: str, show: Any) -> str:
    value = line.row.facts.get(key)
    claimed = line.row.scheme not in FLOATS or key not in _OF_INTEGERS
    return "" if value is None or not claimed else str(show(value))


def _counted(ops: Mapping[str, int]) -> str:
    """Name the commonest few: "4 HARD_SWISH, 1 SOFTMAX"."""
    most = sorted(ops.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{number} {kind}" for kind, number in most[:3])
    return f"{shown} …" if len(most) > 3 else shown or "none"


def sections(decisions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one section per model: its title, its sentences, and its sensitivity table."""
    return [
        {
            "title": plain(decision.get("group") or ""),
            "said": [*_ranges(decision), *_changes(decision), *_mixed(decision)],
            "lints": [_lint(found) for found in decision.get("lints") or ()],
            "sensitivity": _sensitivity(decision.get("sensitivity") or ()),
        }
        for decision in decisions
    ]


def _ranges(decision: Mapping[str, Any]) -> list[str]:
    said = [
        f"Activation ranges: {decision.get('origin', '?')}; {decision.get('why', '')}".strip("; ")
    ]
    if "learned" in decision:
        rest = ", ".join(map(plain, decision["calibrated"])) or "none"
        said.append(f"{decision['learned']} tensors were learned; calibrated besides: {rest}.")
    if decision.get("excluded"):
        said.append(f"In float by name: {', '.join(map(plain, decision['excluded']))}.")
    tried = decision.get("sqnr_by_calibrator")
    if tried:
        listed = ", ".join(f"{name} {fixed(float(db), 1)} dB" for name, db in tried.items())
        said.append(f"SQNR at the output by calibrator, on calibration data: {listed}.")
    shaky = decision.get("instability")
    if shaky:
        said.append(
            f"Between two halves of the calibration set the ranges' widths differ by "
            f"{fixed(float(shaky['median_pct']), 1)} % in the median tensor and "
            f"{fixed(float(shaky['worst_pct']), 1)} % in the worst ({plain(shaky['worst'])})."
        )
    return said


def _changes(decision: Mapping[str, Any]) -> list[str]:
    said = []
    for key, name in (("equalize", "Equalization"), ("bias_correction", "Bias correction")):
        found = decision.get(key)
        if isinstance(found, str):
            said.append(f"{name}: {found}.")
        elif found:
            listed = ", ".join(f"{plain(k).replace('_', ' ')} {v}" for k, v in found.items())
            said.append(f"{name}: applied ({listed}).")
    return said


def _mixed(decision: Mapping[str, Any]) -> list[str]:
    found = decision.get("mixed")
    if not found:
        return []
    names = ", ".join(plain(name) for name in found["excluded"]) or "nothing"
    met = "" if found.get("met", True) else " The budget was not met."
    return [
        f"Mixed precision: {names} in float, {fixed(found['macs_float_share'], 1)} % of the "
        f"MACs, costs {fixed(found['drop'], 2)} points of {plain(found['metric'])} on "
        f"{plain(found['judged_on'])} where {found['max_drop']} are allowed "
        f"({count(found['evaluations'])} evaluated).{met}"
    ]


def _lint(found: Mapping[str, Any]) -> str:
    return f"{plain(found['says'])} → {plain(found['mend'])}"


def _sensitivity(ranking: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the costliest operators; header first."""
    if not ranking:
        return []
    head = ["operator", "kind", "MACs", "dB, it alone in int8", "dB, all in int8 but it"]
    body = [
        [
            plain(one["op"]),
            plain(one["op_type"]),
            count(float(one["macs"])),
            fixed(float(one["only_db"]), 1),
            fixed(float(one["without_db"]), 1),
        ]
        for one in ranking[:COSTLIEST]
    ]
    return [head, *body]
