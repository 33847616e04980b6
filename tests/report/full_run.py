"""A run with everything that a report can show."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

from torchopt2edge.types import Measurement, Verdict

Run = tuple[list[Measurement], Verdict, dict[str, Any]]


def bare_context(title: str = "digits", **more: Any) -> dict[str, Any]:
    """Return the context of a run without stages, environment and decisions."""
    return {"title": title, "stages": [], "environment": {}, "decisions": [], **more}


def sensors(rounds: int) -> list[dict[str, Any]]:
    """Return readings of a machine that warms up, its first thermometer reading lost."""
    return [
        {
            "temperature_c": "unavailable" if not i else 41 + 30 * (1 - math.exp(-i / 5)),
            "clock_mhz": 2400 if i < 8 else 1800,
            "capped": "unavailable",
            "load": 0.4,
        }
        for i in range(rounds)
    ]


def with_all_facts(row: Measurement, at: int) -> Measurement:
    """Return a row with every fact that a run may hold."""
    if row.err is not None:
        return row
    noise = random.Random(at)
    rounds = len(row.latency_ns)
    pace = [1.0 if i < 8 else 1.0 + 0.03 * (i - 7) * (at % 3) for i in range(rounds)]
    latency = [
        [round(ns * share) for ns in each] for share, each in zip(pace, row.latency_ns, strict=True)
    ]
    ms = row.metrics["latency_ms"]
    metrics = {
        "import_ms": 17.0 + at,
        "library_ms": 3.0 + noise.random(),
        "load_ms": 6.0 + 4 * noise.random(),
        "first_ms": 3 * ms,
        "gzip_mb": 0.8 * row.metrics.get("size_mb", 0.3),
        "energy_mj": 2.1 * ms,
    }
    facts = {
        "began_s": [11.0 * i + at for i in range(rounds)],
        "sensors": sensors(rounds),
        "sustained": {
            "first_minute_ms": ms,
            "last_minute_ms": ms * pace[-1],
            "kept": 100 / pace[-1],
            "onset_s": None if pace[-1] == 1.0 else 88.0,
        },
        "profile": [
            {
                "name": f"/layer{i}/conv/Conv",
                "type": "Conv",
                "ms": ms / (i + 3),
                "share": 100 / (i + 3),
            }
            for i in range(12)
        ],
        "placement": {
            "nodes": 96.5,
            "macs": 99.2,
            "partitions": 1 + at,
            "unfused_qdq": 2,
            "transposes": 1,
            "fallback": {"HardSigmoid": 2, "Resize": 1} if at % 2 else {},
        },
        "int8_macs": 100.0,
        "params": 75_290,
        "macs": 12_239_488,
        "notes": ["its weights are in int8 per channel"] if at % 2 else [],
        "warnings": {"drift": "it slowed by 3 %: cool the device"},
    }
    return replace(
        row, metrics={**row.metrics, **metrics}, latency_ns=latency, facts={**row.facts, **facts}
    )


STAGES = [
    ("student", 371.0, {"params": 75_290, "macs": 12_239_488, "top1_test": 97.5}),
    (
        "pruned",
        402.5,
        {
            "params": 31_386,
            "macs": 5_898_880,
            "top1_test": 96.9,
            "macs_share": 0.482,
            "params_share": 0.4148,
            "channels": {f"layer{i}.0.conv1": [16 * i, 8 * i] for i in range(1, 15)},
            "kept": {"conv1": "cutting it changes what the rest computes"},
            "search": {"share": 0.482, "round_to": 8, "importance_lost": 0.1918},
        },
    ),
    ("distilled", 512.0, {"params": 31_386, "macs": 5_898_880, "top1_test": 97.2}),
    (
        "qat",
        120.0,
        {"params": 31_386, "macs": 5_898_880, "top1_test": 97.1, "warning": "it stopped early"},
    ),
    ("export pruned", 3.5, {"params": 31_386, "macs": 5_898_880}),
]


def full_run(rows: list[Measurement], verdict: Verdict) -> Run:
    """Return a run with every fact, stages, an environment and a decision."""
    ranking = [
        {
            "op": f"/layer{i}/conv/Conv",
            "op_type": "Conv",
            "macs": 1000 * i,
            "only_db": 28.0 + 1.4 * i,
            "without_db": "inf" if i == 3 else 24.0 + 3 / (i + 1),
        }
        for i in range(34)
    ]
    decision = {
        "group": "dense",
        "origin": "calibrated:mse",
        "why": "mse keeps 37.2 dB SQNR at the output on 32 samples",
        "excluded": [],
        "lints": [{"says": "a Sigmoid gates a Mul", "hint": "use a hard sigmoid"}],
        "sensitivity": ranking,
        "ranked_db": 23.5,
    }
    context = bare_context(
        stages=[
            {"name": name, "seconds": seconds, "cached": False, "facts": facts}
            for name, seconds, facts in STAGES
        ],
        environment={
            "device": {"cpu": "a CPU", "cores": 2, "governor": "unavailable"},
            "protocol": "quick",
            "versions": {"torch": "2.14.1", "onnxruntime": "1.31.1"},
            "command": "torchopt2edge optimize experiment=digits protocol=quick out=outputs/digits",
        },
        decisions=[decision],
    )
    return [with_all_facts(row, at) for at, row in enumerate(rows)], verdict, context
