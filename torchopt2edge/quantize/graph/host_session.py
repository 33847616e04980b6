"""ONNX Runtime as a tool on the host: open a graph in memory, and what it raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def host_session(
    proto: Any, *, optimize: bool = True, threads: int | None = None, keep: Path | None = None
) -> Any:
    """Open an in-memory graph on all cores of the host, or on ``threads``.

    ``keep`` is a file to write the optimized graph to; it fits this machine alone.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    if keep is not None:
        options.optimized_model_filepath = str(keep)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def ort_errors() -> tuple[type[BaseException], ...]:
    """Return every error class of ONNX Runtime: they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (getattr(state, name) for name in dir(state))
    return (
        RuntimeError,
        ValueError,
        *(item for item in found if isinstance(item, type) and issubclass(item, Exception)),
    )
