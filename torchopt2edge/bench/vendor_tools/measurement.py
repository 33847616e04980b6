"""Makes a row of a tool's summary: beside the harness's rows, never against them."""

from __future__ import annotations

from torchopt2edge.bench.vendor_tools.summary import ToolSummary
from torchopt2edge.errors import BenchError
from torchopt2edge.types import Facts, Measurement


def row(
    summary: ToolSummary, *, candidate: str, backend: str, scheme: str, device: str
) -> Measurement:
    """Return the row of one run of a tool: a cross-check, since there are no samples behind it.

    ``latency_ms`` is the median where the tool states one and the mean otherwise
    (``facts["latency_is"]`` says which). ``latency_ns`` is empty, so that no verdict takes it.

    Raises:
        BenchError: the summary holds neither.
    """
    metrics = _metrics(summary)
    if "latency_ms" not in metrics:
        raise BenchError(
            "the summary has neither a median nor a mean",
            artifact=candidate,
            hint=f"let {summary.tool} print its statistics",
        )
    flags = _flags(summary)
    return Measurement(
        candidate,
        backend,
        scheme,
        device,
        f"tool:{summary.tool}",
        metrics,
        [],
        {
            **_receipt(summary),
            "latency_is": _statistic(summary),
            "flags": list(flags),
            "warnings": flags,
        },
    )


def _metrics(summary: ToolSummary) -> dict[str, float]:
    values = {
        "latency_ms": summary.mean_ms if summary.median_ms is None else summary.median_ms,
        "mean_ms": summary.mean_ms,
        "p50_ms": summary.median_ms,
        "min_ms": summary.min_ms,
        "max_ms": summary.max_ms,
        "std_ms": summary.std_ms,
        **{f"p{at:g}_ms": value for at, value in summary.percentiles.items()},
        "init_ms": summary.init_ms,
        "first_ms": summary.first_ms,
        "warmup_ms": summary.warmup_ms,
        "memory_mb": summary.memory_mb,
        "size_mb": summary.facts.get("model_size_mb"),
        "runs": None if summary.runs is None else float(summary.runs),
    }
    return {name: value for name, value in values.items() if value is not None}


def _statistic(summary: ToolSummary) -> str:
    return "mean" if summary.median_ms is None else "median"


def _receipt(summary: ToolSummary) -> Facts:
    told = {
        "runner": summary.tool,
        "generation": summary.generation,
        "model": summary.model,
        "threads": summary.threads,
    }
    return {**summary.facts, **{name: value for name, value in told.items() if value is not None}}


def _flags(summary: ToolSummary) -> dict[str, str]:
    """What a reader must know, each with what follows from it."""
    flags = {
        "summary-only": f"{summary.tool} keeps no samples (its latency is the "
        f"{_statistic(summary)} that it printed): a cross-check, which takes no part in a verdict"
    }
    if errors := summary.facts.get("errors"):
        flags["tool-errors"] = (
            f"{summary.tool} went on after an error ({errors[0]}): it may have timed something "
            "else than it was asked for"
        )
    return flags
