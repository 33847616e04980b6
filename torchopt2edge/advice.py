"""What the rows say beyond the verdict: where integers do not pay, what heat and threads change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torchopt2edge import stats
from torchopt2edge.admission import drop_of
from torchopt2edge.types import Measurement

MARGIN = 0.01
"""Within 1 % two latencies are equal for every practical purpose."""

_CLEAR_P = 0.05
_STEADY = 95.0

Ratio = Callable[[Measurement, Measurement], stats.Interval]


def advice(
    live: Sequence[Measurement],
    admissible: Sequence[Measurement],
    reference: Measurement | None,
    ratio: Ratio,
) -> list[str]:
    """Return sentences; ``live`` are the measured rows, ``ratio`` compares two of them."""
    return [
        *_accuracy(admissible, reference),
        *_integers(live, ratio),
        *_settings(live),
        *_sustained(live),
    ]


def unlike(live: Sequence[Measurement]) -> list[str]:
    """Warn where files do not take the same inputs; a layout or a free batch is no difference."""
    taken: dict[tuple[int, ...], list[str]] = {}
    for row in live:
        if "inputs" in row.facts:
            numbers = sorted(math.prod(map(abs, shape)) for _, shape in row.facts["inputs"])
            taken.setdefault(tuple(numbers), []).append(row.candidate)
    if len(taken) < 2:
        return []
    each = "; ".join(f"{names[0]}: {' + '.join(map(str, n))}" for n, names in taken.items())
    return [
        f"the files do not take the same inputs (numbers in one sample of {each}): they do "
        "different work, and the fastest is not the better one for it"
    ]


def _accuracy(rows: Sequence[Measurement], reference: Measurement | None) -> list[str]:
    """Say which differences in accuracy so few samples cannot tell from none (McNemar)."""
    said = []
    for row in rows:
        p, drop = row.metrics.get("mcnemar_p"), reference and drop_of(row, reference)
        if p is None or not drop or not drop.points or p < _CLEAR_P:
            continue
        said.append(
            f"{row.candidate} {'loses' if drop.points > 0 else 'gains'} {abs(drop.points):.2f}"
            f"{drop.unit} of {drop.metric} on {row.facts.get('n_eval', '?')} samples, which is not "
            f"distinguishable from none (McNemar p = {p:.2g})"
        )
    return said


def _integers(live: Sequence[Measurement], ratio: Ratio) -> list[str]:
    """Say where integers did not pay: the same backend and model, slower than in float."""
    floats = {_setting(row): row for row in live if row.scheme == "fp32"}
    said = []
    for row in live:
        other = floats.get(_setting(row))
        if not row.scheme.startswith("int8") or other is None:
            continue
        if row.facts.get("run") != other.facts.get("run"):
            continue
        middle, low, high = ratio(row, other)
        if low > 1.0 + MARGIN:
            said.append(
                f"{row.candidate} is {middle:.2f}× slower than {other.candidate} "
                f"(95 % {low:.2f}–{high:.2f}): {_why_slow(row)}"
            )
    return said


def _setting(row: Measurement) -> tuple[str, str, str]:
    return row.backend, str(row.facts.get("group", "")), str(row.facts.get("setting"))


def _why_slow(row: Measurement) -> str:
    """Name the likeliest cause that the file itself shows, and what to change."""
    facts = row.facts
    vnni = any("vnni" in flag for flag in facts.get("cpu_flags", ()))
    if facts.get("isa") == "arm64" and str(facts.get("arch")) in ("x86_64", "amd64"):
        return "its activations are signed, as arm64 wants them: use U8S8 (backend.ort.isa=auto)"
    floats = facts.get("float_ops") or {}
    if facts.get("unfused_qdq"):
        left = ", ".join(f"{count} {op}" for op, count in floats.items()) or "its operators"
        return (
            f"{facts['unfused_qdq']} dequantizations stayed unfused ({left} in float): exclude "
            "whole blocks (quantize.exclude) so that fewer borders are left"
        )
    if facts.get("partitions", 1) > 1:
        return f"XNNPACK takes it in {facts['partitions']} pieces, with copies between them"
    if row.scheme == "int8_dynamic":
        return "ranges are found at every inference: use int8 with calibration data"
    if facts.get("isa") == "x86" and not vnni:
        return "this CPU has no VNNI: int8 pays on the device, not here"
    return "its integers do not pay on this CPU: bench.profile=true shows which operators"


def _settings(live: Sequence[Measurement]) -> list[str]:
    """Name the best threads and cores of every file that was tried with several."""
    tried: dict[str, list[Measurement]] = {}
    for row in live:
        if row.facts.get("setting"):
            tried.setdefault(str(row.facts.get("base")), []).append(row)
    best: dict[str, tuple[float, str]] = {}
    for base, rows in tried.items():
        fastest = min(rows, key=lambda row: row.metrics["latency_ms"])
        mark = fastest.candidate.rpartition("@")[2]
        found = fastest.metrics["latency_ms"], f"{base} is fastest with {mark}"
        best[fastest.backend] = min(best.get(fastest.backend, found), found)
    return [
        f"best setting of {backend}: {what} ({ms:.3g} ms)" for backend, (ms, what) in best.items()
    ]


def _sustained(live: Sequence[Measurement]) -> list[str]:
    """Say who slows down, and when the first minute's fastest is not the last one's."""
    known = [row for row in live if row.facts.get("sustained")]
    said = []
    for row in known:
        found = row.facts["sustained"]
        if found["kept"] < _STEADY:
            onset = found.get("onset_s")
            when = "" if onset is None else f", from second {onset:.0f} on"
            said.append(
                f"{row.candidate} keeps {found['kept']:.0f} % of its first minute's speed{when}"
            )
    if len(known) > 1:
        first = min(known, key=lambda row: float(row.facts["sustained"]["first_minute_ms"]))
        last = min(known, key=lambda row: float(row.facts["sustained"]["last_minute_ms"]))
        if first is not last:
            said.append(
                f"the fastest of the first minute ({first.candidate}) is not the fastest of the "
                f"last ({last.candidate}): ship by the last, where the device has the heat it "
                "will have"
            )
    return said
