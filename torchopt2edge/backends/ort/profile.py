"""Where the time of one inference goes in ONNX Runtime, operator by operator."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Op = dict[str, Any]


def profile(file: Path, threads: int, arrays: Mapping[str, Array], runs: int) -> list[Op]:
    """Measure every kernel of a file.

    Profiling costs time of its own: the shares are right, the sum is above the latency.

    Args:
        file: the ONNX file.
        threads: how many threads one operator uses.
        arrays: one input by name.
        runs: how often it is run.

    Returns:
        ``{name, type, ms}`` of every kernel, in the order they run: its name in the graph that
        ONNX Runtime makes of the file, its operator type, the median of its time.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, dict(arrays))
        return kernels(json.loads(Path(session.end_profiling()).read_text()))


def kernels(events: list[dict[str, Any]]) -> list[Op]:
    """Return the kernels in ONNX Runtime's trace, each with the median of its runs."""
    spans: dict[str, list[int]] = {}
    op_types: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            spans.setdefault(name, []).append(int(event["dur"]))
            op_types[name] = event["args"]["op_name"]
    return [
        {"name": name, "type": op_types[name], "ms": statistics.median(durations) / 1e3}
        for name, durations in spans.items()
    ]
