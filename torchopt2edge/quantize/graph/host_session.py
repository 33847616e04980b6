"""ONNX Runtime as a tool on the host: sessions of graphs in memory, and the errors it raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def host_session(
    proto: Any, *, optimize: bool = True, threads: int | None = None, keep: Path | None = None
) -> Any:
    """Open a graph in memory.

    Args:
        proto: a ``ModelProto``.
        optimize: whether ONNX Runtime may rewrite the graph.
        threads: how many threads one operator uses; all cores by default.
        keep: a file to write the optimized graph to, which fits this machine alone.

    Returns:
        An ``onnxruntime.InferenceSession`` on the CPU.
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
    """Return the error classes of ONNX Runtime, which share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    items = (getattr(state, name) for name in dir(state))
    return (
        RuntimeError,
        ValueError,
        *(item for item in items if isinstance(item, type) and issubclass(item, Exception)),
    )
