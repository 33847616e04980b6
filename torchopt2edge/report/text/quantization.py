"""How the models were quantized, as sentences and tables: the decisions, and the files' content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchopt2edge.report.text.facts import decibel, finite_number, mappings
from torchopt2edge.report.text.numbers import count, fixed
from torchopt2edge.report.text.row_view import RowView, plain

SHOWN = 10
"""How many operators the sensitivity table of ``report.md`` holds."""

FLOAT_SCHEMES = ("fp32", "fp16")
Decision = Mapping[str, Any]
"""One entry of ``decisions`` in ``context.json``: how one model was quantized."""

_OF_INTEGER_FILES = ("int8_macs", "integer_ops", "float_ops", "unfused_qdq")
_CONTENT: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("ranges", "ranges_origin", str),
    ("ranges matched %", "ranges_matched", lambda value: fixed(float(value), 1)),
    ("MACs in int8 %", "int8_macs", lambda value: fixed(float(value), 1)),
    ("integer ops", "integer_ops", lambda value: str(sum(value.values()))),
    ("float ops left", "float_ops", lambda value: _most_frequent(value)),
    ("Q/DQ not fused", "unfused_qdq", str),
    ("transposes", "transposes", str),
    ("partitions", "partitions", str),
)


@dataclass(frozen=True)
class QuantizationText:
    """How one model was quantized.

    Attributes:
        model: The model's name, "" where a run has one model.
        sentences: What was decided, and why.
        lints: What the graph's lints found, each with its hint.
        operators: Cells of the sensitivity table, header first; empty without a ranking.
    """

    model: str
    sentences: tuple[str, ...]
    lints: tuple[str, ...]
    operators: list[list[str]]


def file_content(views: Sequence[RowView]) -> list[list[str]]:
    """Return the table of what the produced files hold.

    Args:
        views: The run's rows.

    Returns:
        Cells, header first, without empty columns; empty where nothing is known.
    """
    files = [view for view in views if view.row.backend != "torch" and not view.checks]
    body = [
        [view.name, *(_content(view, key, text) for _, key, text in _CONTENT)]
        for view in files
        if not view.failed
    ]
    head = ["candidate", *(title for title, _, _ in _CONTENT)]
    kept = [at for at in range(len(head)) if any(cells[at] for cells in body)]
    return [[cells[at] for at in kept] for cells in (head, *body)] if len(kept) > 1 else []


def file_notes(views: Sequence[RowView]) -> list[str]:
    """Return the notes of the rows.

    Args:
        views: The run's rows.

    Returns:
        Each note once, behind the names of the candidates it is about.
    """
    names: dict[str, list[str]] = {}
    for view in views:
        for note in view.row.facts.get("notes") or ():
            names.setdefault(plain(note), []).append(view.name)
    return [f"{', '.join(each)}: {note}" for note, each in names.items()]


def _content(view: RowView, key: str, text: Callable[[Any], str]) -> str:
    """Return one cell; what counts integers says nothing about a float file."""
    value = view.row.facts.get(key)
    applies = view.row.scheme not in FLOAT_SCHEMES or key not in _OF_INTEGER_FILES
    return "" if value is None or not applies else text(value)


def _most_frequent(ops: Mapping[str, int]) -> str:
    """Name the three most frequent operators: "4 HARD_SWISH, 1 SOFTMAX"."""
    ordered = sorted(ops.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{number} {kind}" for kind, number in ordered[:3])
    return f"{shown} …" if len(ordered) > 3 else shown or "none"


def quantization_texts(decisions: Sequence[Decision]) -> list[QuantizationText]:
    """Return how each model was quantized.

    Args:
        decisions: ``decisions`` of ``context.json``.

    Returns:
        One text per model, in order.
    """
    return [
        QuantizationText(
            plain(decision.get("group") or ""),
            (
                *_range_sentences(decision),
                *_repair_sentence(decision),
                *_change_sentences(decision),
                *_mixed_sentence(decision),
            ),
            tuple(_lint(each) for each in decision.get("lints") or ()),
            operator_cells(mappings(decision.get("sensitivity"))[:SHOWN]),
        )
        for decision in decisions
    ]


def _range_sentences(decision: Decision) -> list[str]:
    origin, why = decision.get("origin", "?"), decision.get("why", "")
    sentences = [f"Activation ranges: {origin}; {why}".strip("; ")]
    if "learned" in decision:
        rest = ", ".join(map(plain, decision["calibrated"])) or "none"
        sentences.append(
            f"{decision['learned']} tensors have learned ranges; calibrated in addition: {rest}."
        )
    left = set((decision.get("repair") or {}).get("excluded", ()))
    if named := [name for name in decision.get("excluded") or () if name not in left]:
        sentences.append(f"In float by name: {', '.join(map(plain, named))}.")
    tried = decision.get("sqnr_by_observer") or decision.get("sqnr_by_calibrator")
    if tried:
        values = ", ".join(f"{plain(name)} {fixed(float(db), 1)} dB" for name, db in tried.items())
        sentences.append(f"SQNR at the output by observer, on calibration data: {values}.")
    spread = decision.get("instability")
    if spread:
        sentences.append(
            f"Between two halves of the calibration set the ranges' widths differ by "
            f"{fixed(float(spread['median_pct']), 1)} % in the median tensor and "
            f"{fixed(float(spread['worst_pct']), 1)} % in the worst ({plain(spread['worst'])})."
        )
    return sentences


def _change_sentences(decision: Decision) -> list[str]:
    sentences = []
    for key, name in (("equalize", "Equalization"), ("bias_correction", "Bias correction")):
        result = decision.get(key)
        if isinstance(result, str):
            sentences.append(f"{name}: {result}.")
        elif result:
            counts = ", ".join(f"{plain(k).replace('_', ' ')} {v}" for k, v in result.items())
            sentences.append(f"{name}: applied ({counts}).")
    return sentences


def _repair_sentence(decision: Decision) -> list[str]:
    repair = decision.get("repair")
    if not repair:
        return []
    names = ", ".join(map(plain, repair["excluded"]))
    kinds = ", ".join(map(plain, repair["op_types"]))
    return [
        f"Left in float, because int8 was poor: {count(len(repair['excluded']))} operators "
        f"({kinds}), {fixed(repair['macs_float_share'], 2)} % of the MACs: "
        f"{fixed(repair['before_db'], 1)} → {fixed(repair['after_db'], 1)} dB. They are {names}. "
        "quantize.repair=false leaves none."
    ]


def _mixed_sentence(decision: Decision) -> list[str]:
    mixed = decision.get("mixed")
    if not mixed:
        return []
    names = ", ".join(plain(name) for name in mixed["excluded"]) or "nothing"
    budget = "" if mixed.get("met", True) else " The budget was not met."
    return [
        f"Mixed precision: {names} in float, {fixed(mixed['macs_float_share'], 1)} % of the "
        f"MACs, costs {fixed(mixed['drop'], 2)} points of {plain(mixed['metric'])} on "
        f"{plain(mixed['judged_on'])}; the limit is {mixed['max_drop']} "
        f"({count(mixed['evaluations'])} evaluated).{budget}"
    ]


def _lint(lint: Mapping[str, Any]) -> str:
    hint = lint.get("hint") or lint.get("mend") or ""  # the key of the previous release
    return f"{plain(lint['says'])} → {plain(hint)}"


def operator_cells(ranking: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the sensitivity table of a model.

    Args:
        ranking: ``sensitivity`` of a decision: the operators, the most sensitive first.

    Returns:
        Cells, header first; empty without a ranking.
    """
    if not ranking:
        return []
    head = ["operator", "kind", "MACs", "dB, only it in int8", "dB, all but it in int8"]
    body = [
        [
            plain(op.get("op", "?")),
            plain(op.get("op_type", "")),
            count(finite_number(op.get("macs"))),
            fixed(decibel(op.get("only_db")), 1),
            fixed(decibel(op.get("without_db")), 1),
        ]
        for op in ranking
    ]
    return [head, *body]
