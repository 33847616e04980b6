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
    """Return ``{name, type, ms}`` of every kernel, in the order they run, medians over ``runs``.

    Names are those of the graph that ONNX Runtime made of the file. Profiling costs time of its
    own: the shares hold, the sum is above the latency.
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
    """Read the kernels off ONNX Runtime's trace; a node that ran often counts by its median."""
    spans: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            spans.setdefault(name, []).append(int(event["dur"]))
            kinds[name] = event["args"]["op_name"]
    return [
        {"name": name, "type": kinds[name], "ms": statistics.median(found) / 1e3}
        for name, found in spans.items()
    ]
