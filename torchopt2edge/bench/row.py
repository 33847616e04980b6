"""Makes a row out of rounds: metrics in the shared vocabulary, the receipt, the flags."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchopt2edge import stats
from torchopt2edge.bench import validity
from torchopt2edge.bench.protocol import Protocol
from torchopt2edge.bench.session import Round
from torchopt2edge.types import Candidate, Facts, Measurement

MB = 1e6


def measured(
    candidate: Candidate,
    device: str,
    protocol: Protocol,
    rounds: Sequence[Round],
    times: Mapping[str, float],
    receipt: Facts,
) -> Measurement:
    """Return the row of a candidate that ran all its rounds."""
    samples = [one.latency_ns for one in rounds]
    flags = validity.assess(rounds, protocol, receipt)
    return Measurement(
        candidate.id,
        candidate.backend,
        candidate.scheme,
        device,
        protocol.name,
        {**_latency(samples), **times, **_sizes(candidate, rounds)},
        samples,
        {
            **_identity(candidate),
            **receipt,
            **_series(rounds),
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
        {**_identity(candidate), **receipt, "flags": [], "warnings": {}},
        err or "it was not measured",
    )


def _latency(samples: list[list[int]]) -> dict[str, float]:
    """Rule 2: the interval is over rounds; only the percentiles look at single inferences."""
    middle, low, high = stats.median_interval(stats.round_medians(samples))
    pooled = [one for each in samples for one in each]
    percentiles = {f"p{at}_ms": stats.percentile(pooled, at) for at in (50, 90, 99)}
    return {
        "latency_ms": middle / 1e6,
        "latency_low_ms": low / 1e6,
        "latency_high_ms": high / 1e6,
        **{name: value / 1e6 for name, value in percentiles.items() if value is not None},
        "samples": float(len(pooled)),
        "rounds": float(len(samples)),
    }


def _sizes(candidate: Candidate, rounds: Sequence[Round]) -> dict[str, float]:
    sizes = file_sizes(candidate.file)
    peak = max(one.peak_bytes for one in rounds)
    return {**sizes, "memory_mb": peak / MB} if peak > 0 else sizes


def file_sizes(file: Path) -> dict[str, float]:
    """Return the file's size and what a download of it takes, in 1e6 bytes."""
    content = file.read_bytes()
    packed = len(gzip.compress(content, 6, mtime=0))
    return {"size_mb": len(content) / MB, "gzip_mb": packed / MB}


def _identity(candidate: Candidate) -> Facts:
    return {
        **{key: value for key, value in candidate.facts.items() if key != "target"},
        "group": candidate.group,
        "file": str(candidate.file),
        "digest": candidate.digest,
    }


def _series(rounds: Sequence[Round]) -> Facts:
    steal = validity.steal_share(rounds)
    last = rounds[-1].sensors
    return {
        "steal": "unavailable" if steal is None else round(steal, 4),
        "cpu_share": round(validity.cpu_share(rounds), 4),
        "involuntary_per_s": round(validity.switches_per_s(rounds), 2),
        "temperature": last.get("temperature_c", "unavailable"),
        "sensors": [one.sensors for one in rounds],
    }
