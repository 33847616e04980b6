"""What the rows say beside the verdict: flags, integers that do not pay, heat and threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torchopt2edge.quantize import isa
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.stats.rows import drop_of, speed_ms
from torchopt2edge.types import BASELINE, Measurement, Verdict

MARGIN = 0.01
"""Within 1 % two latencies are equal for every practical purpose."""

_CLEAR_P = 0.05
_STEADY = 95.0
_TWO_MINUTES_NS = 120e9
_MANY = 3  # names in a sentence
_X86 = ("x86_64", "amd64", "i386", "i686")

Ratio = Callable[[Measurement, Measurement], round_stats.Interval]


def advice(
    live: Sequence[Measurement],
    admissible: Sequence[Measurement],
    verdict: Verdict,
    ratio: Ratio,
) -> list[str]:
    """Return sentences on time, of rows whose times mean something.

    ``live`` are the measured rows, ``admissible`` those that may be shipped, ``ratio`` compares
    two of them; the sentences go with the ``verdict`` and name nothing that it does not.
    """
    return [
        *_integers(live, ratio),
        *_settings(admissible or live, ratio),
        *_slower(live),
        *_flip(admissible, verdict),
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


def processors(live: Sequence[Measurement]) -> list[str]:
    """Warn where a file's outputs depend on the processor (`quantize.saturation`)."""
    affected = [row for row in live if row.facts.get("saturating_layers")]
    here = [row for row in affected if isa.kind_of(row.facts) == isa.X86]
    elsewhere = [row for row in affected if isa.kind_of(row.facts) not in (isa.X86, None)]
    hint = f"backend.ort.isa={isa.PORTABLE} makes a file that is exact on every processor"
    warnings = []
    if here:
        layers = max(row.facts["saturating_layers"] for row in here)
        warnings.append(
            f"{several(here, live)}: the sums of {layers} layers can saturate on this processor "
            f"({isa.DESCRIPTIONS[isa.X86]}), so outputs and accuracy are not those of other "
            f"processors; {hint}"
        )
    if elsewhere:
        kinds = elsewhere[0].facts.get("exact_on", ())
        exact = ", ".join(isa.DESCRIPTIONS.get(kind, kind) for kind in kinds)
        warnings.append(
            f"{several(elsewhere, live)}: these outputs hold on {exact}; on "
            f"{isa.DESCRIPTIONS[isa.X86]} sums can saturate and accuracy can fall; {hint}"
        )
    made = [row for row in live if _made_for_another(row)]
    if made:
        target, measured = made[0].facts["isa"], isa.kind_of(made[0].facts)
        warnings.append(
            f"{several(made, live)}: made for {isa.DESCRIPTIONS[target]} and measured on "
            f"{isa.DESCRIPTIONS[str(measured)]}: the latency is not the target's"
        )
    return warnings


def _made_for_another(row: Measurement) -> bool:
    """Tell whether a file was made for one kind of processor and measured on another."""
    target, measured = row.facts.get("isa"), isa.kind_of(row.facts)
    if target not in isa.DESCRIPTIONS or measured is None:
        return False
    return isa.preset_of(str(target)) != isa.preset_of(measured)


def accuracy(rows: Sequence[Measurement], reference: Measurement | None) -> list[str]:
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
    kind = isa.kind_of(facts)
    if facts.get("isa") == isa.ARM64 and kind in (isa.X86, isa.X86_VNNI):
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
    if kind == isa.X86:
        return "this CPU has no VNNI: int8 pays on the device, not here"
    return "its integers do not pay on this CPU: bench.profile=true shows which operators"


def _settings(rows: Sequence[Measurement], ratio: Ratio) -> list[str]:
    """Name the best threads and cores of every backend whose files were tried with several."""
    tried: dict[str, list[Measurement]] = {}
    for row in rows:
        if row.facts.get("setting") and row.backend != BASELINE:
            tried.setdefault(row.backend, []).append(row)
    return [_best(backend, settings, ratio) for backend, settings in tried.items()]


def _best(backend: str, rows: Sequence[Measurement], ratio: Ratio) -> str:
    fastest = min(rows, key=speed_ms)
    base = fastest.facts.get("base")
    same = [row for row in rows if row is not fastest and row.facts.get("base") == base]
    alike = [
        row.candidate.rpartition("@")[2]
        for row in same
        if row.facts.get("run") == fastest.facts.get("run")
        and ratio(row, fastest)[1] <= 1.0 + MARGIN + spread_of(row)
    ]
    said = f"; {', '.join(alike)} cannot be told apart from it" if alike else ""
    mark = fastest.candidate.rpartition("@")[2]
    ms = f"{speed_ms(fastest):.3g} ms"
    return f"best setting of {backend}: {base} is fastest with {mark} ({ms}){said}"


def _slower(live: Sequence[Measurement]) -> list[str]:
    """Say which file slows down in the course of a run, and by how much."""
    said = []
    for row in live:
        found = row.facts.get("sustained")
        if found and found["kept"] < _STEADY:
            onset = found.get("onset_s")
            when = "" if onset is None else f", from second {onset:.0f} on"
            said.append(
                f"{row.candidate} keeps {found['kept']:.0f} % of its first {_part(row)}'s speed"
                f"{when}"
            )
    return said


def _part(row: Measurement) -> str:
    """Name what `bench.throttling.summary` holds against each other: minutes, or a run's halves."""
    return "minute" if sum(map(sum, row.latency_ns)) >= _TWO_MINUTES_NS else "half"


def _flip(admissible: Sequence[Measurement], verdict: Verdict) -> list[str]:
    """Say when the fastest of the first minute is not the last one's, beyond what is equal."""
    known = [row for row in admissible if row.facts.get("sustained")]
    if len(known) < 2:
        return []
    first, last = (min(known, key=lambda row: _minute(row, at)) for at in ("first", "last"))
    equal = 1.0 + MARGIN + spread_of(first)
    ahead = _minute(last, "first") / _minute(first, "first")
    behind = _minute(first, "last") / _minute(last, "last")
    if not min(ahead, behind) > equal:
        return []
    ship = "ship by the last, where the device has the heat it will have"
    if last.candidate not in (verdict.winner, *verdict.tie):
        ship = "what decides are the medians of the second half, without stalls"
    return [
        f"the fastest of the first {_part(first)} ({first.candidate}) is not the fastest of the "
        f"last ({last.candidate}): {ship}"
    ]


def _minute(row: Measurement, which: str) -> float:
    return float(row.facts["sustained"][f"{which}_minute_ms"])


def spread_of(row: Measurement) -> float:
    """Return the share by which the machine drifted in a run without turns, 0 in one with."""
    found = row.facts.get("anchor_spread")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else 0.0


def flagged(live: Sequence[Measurement]) -> list[str]:
    """Say every flag once with its rows; the sentence is the first row's."""
    return [
        f"{flag} ({several(rows, live)}): {sentence(rows[0], flag)}"
        for flag, rows in by_flag(live).items()
    ]


def by_flag(rows: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Return the rows that carry each flag, by the flags' names."""
    found: dict[str, list[Measurement]] = {}
    for row in rows:
        for flag in flags_of(row):
            found.setdefault(flag, []).append(row)
    return dict(sorted(found.items()))


def flags_of(row: Measurement) -> Sequence[str]:
    """Return a row's flags."""
    return row.facts.get("flags") or ()


def sentence(row: Measurement, flag: str) -> str:
    """Return what a row says of one of its flags."""
    known: Mapping[str, str] = row.facts.get("warnings") or {}
    return known.get(flag, "run it again")


def several(rows: Sequence[Measurement], of: Sequence[Measurement]) -> str:
    """Name rows; of many that share a lot the first few, since the table marks each."""
    if len(rows) <= _MANY:
        return ", ".join(row.candidate for row in rows)
    if len(rows) == len(of):
        return f"all {len(rows)} rows"
    return f"{', '.join(row.candidate for row in rows[:_MANY])} and {len(rows) - _MANY} more"


def caution(live: Sequence[Measurement]) -> list[str]:
    """Warn of numbers that are no phone's and no board's."""
    if not any(str(row.facts.get("arch", "")).lower() in _X86 for row in live):
        return []
    return [
        "these are desktop or server numbers (x86): a phone or a board ranks files differently; "
        "measure there before you ship"
    ]
