"""Makes a row out of rounds: metrics in the shared vocabulary, the receipt, the flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchopt2edge.bench import flags as validity
from torchopt2edge.bench import throttling
from torchopt2edge.bench.child_session import Round
from torchopt2edge.bench.file_size import MB, PACKED, sizes
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.stats import rounds as round_stats
from torchopt2edge.types import Candidate, Facts, Measurement

_CHARGING = (
    "unavailable: the device was charging; unplug it and measure over the network (adb tcpip 5555)"
)


def measured(
    candidate: Candidate,
    device: str,
    protocol: TimingPlan,
    rounds: Sequence[Round],
    times: Mapping[str, float],
    receipt: Facts,
) -> Measurement:
    """Return the row of a candidate that ran all its rounds.

    Raises:
        BenchError: its file is gone.
    """
    samples = [one.latency_ns for one in rounds]
    flags = validity.assess(rounds, protocol, receipt)
    return Measurement(
        candidate.id,
        candidate.backend,
        candidate.scheme,
        device,
        protocol.name,
        {**_latency(samples), **times, **_sizes(candidate, rounds), **_energy(rounds)},
        samples,
        {
            **_identity(candidate),
            **_kept(receipt),
            **_series(rounds, receipt),
            "flags": list(flags),
            "warnings": flags,
        },
    )


def failed(
    candidate: Candidate, device: str, protocol: str, receipt: Facts, err: str | None
) -> Measurement:
    """Return the row of a candidate that could not be measured to the end."""
    return Measurement(
        candidate.id,
        candidate.backend,
        candidate.scheme,
        device,
        protocol,
        {},
        [],
        {**_identity(candidate), **_kept(receipt), "flags": [], "warnings": {}},
        err or "it was not measured",
    )


def _kept(receipt: Facts) -> Facts:
    """Leave out what only this run's clock can read."""
    return {name: value for name, value in receipt.items() if name != "zero_ns"}


def _latency(samples: list[list[int]]) -> dict[str, float]:
    """Rule 2: the interval is over rounds; only the percentiles look at single inferences."""
    middle, low, high = round_stats.median_interval(round_stats.round_medians(samples))
    known = {"latency_low_ms": low / 1e6, "latency_high_ms": high / 1e6}
    made = {
        "latency_ms": middle / 1e6,
        **{name: end for name, end in known.items() if math.isfinite(end)},  # few rounds have none
        "samples": float(sum(map(len, samples))),
        "rounds": float(len(samples)),
    }
    for at in (50, 90, 99):
        found = round_stats.percentile_interval(samples, at)
        if found is not None:
            known = {f"p{at}_low_ms": found[1] / 1e6, f"p{at}_high_ms": found[2] / 1e6}
            made |= {f"p{at}_ms": found[0] / 1e6}
            made |= {name: end for name, end in known.items() if math.isfinite(end)}
    return made


def _energy(rounds: Sequence[Round]) -> dict[str, float]:
    """Return millijoules per inference, of the whole processor, idle draw included.

    From the packages' counters; else from the rail's power at the end of every round.
    """
    known = [one for one in rounds if one.joules is not None]
    if known:
        count = sum(len(one.latency_ns) for one in known)
        return {"energy_mj": 1e3 * sum(one.joules or 0.0 for one in known) / count}
    if _is_charging(rounds):
        return {}
    watts = [one.sensors.get("power_w") for one in rounds]
    drawn = [float(one) for one in watts if isinstance(one, int | float)]
    if not drawn:
        return {}
    seconds = sum(one.wall_ns for one in rounds) / sum(len(one.latency_ns) for one in rounds) / 1e9
    return {"energy_mj": 1e3 * sum(drawn) / len(drawn) * seconds}


def _is_charging(rounds: Sequence[Round]) -> bool:
    """Whether a cable fed the device: what its battery gave is then no measure of what it used."""
    return any(one.sensors.get("charging") is True for one in rounds)


def _sizes(candidate: Candidate, rounds: Sequence[Round]) -> dict[str, float]:
    found = sizes(candidate)
    peak = max(one.peak_bytes for one in rounds)
    return {**found, "memory_mb": peak / MB} if peak > 0 else found


def _identity(candidate: Candidate) -> Facts:
    return {
        **{key: value for key, value in candidate.facts.items() if key not in ("target", PACKED)},
        "group": candidate.group,
        "file": str(candidate.file),
        "digest": candidate.digest,
        "inputs": [[spec.dtype, list(spec.shape)] for spec in candidate.signature.inputs],
    }


def _told(value: float | None, digits: int) -> float | str:
    return "unavailable" if value is None else round(value, digits)


def _series(rounds: Sequence[Round], receipt: Facts) -> Facts:
    zero = receipt.get("zero_ns", rounds[0].begin_ns)
    last = rounds[-1].sensors
    return {
        "steal": _told(validity.steal_share(rounds), 4),
        "cpu_share": _told(validity.cpu_share(rounds), 4),
        "involuntary_per_s": _told(validity.switches_per_s(rounds), 2),
        "temperature": last.get("temperature_c", "unavailable"),
        "capped": last.get("capped", "unavailable"),
        **({"energy": _CHARGING} if _is_charging(rounds) else {}),
        "sensors": [one.sensors for one in rounds],
        "began_s": [round((one.begin_ns - zero) / 1e9, 3) for one in rounds],
        **({} if receipt.get("order") != "blocks" else {"sustained": throttling.summary(rounds)}),
    }
