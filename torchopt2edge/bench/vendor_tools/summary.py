"""What one run of a runtime's own benchmark tool said: a summary, since it keeps no samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchopt2edge.types import Facts

MIB = 2**20 / 1e6  # the tools that count in KiB write "MB" where they mean 2**20 bytes


@dataclass(frozen=True)
class ToolSummary:
    """The numbers of one run, in milliseconds and in 1e6 bytes; what was not said is None.

    ``generation`` names the wording of the output (``tflite``, ``litert``, ``1.23`` …), because
    the same word means other things in other versions. ``percentiles`` maps the percentile (5,
    90, 99.9) to milliseconds; the 50th is ``median_ms``. ``init_ms`` is whatever the tool calls
    its initialization (LiteRT's holds the accelerators, TFLite's does not), so it compares runs
    of one tool alone. ``memory_mb`` is the peak of the whole process; how much it grew since the
    start of the tool is another thing and lies in ``facts["memory_delta_mb"]``.
    ``facts["resolution_ms"]`` is the step in which the tool counts a latency, where it has one.
    """

    tool: str
    generation: str
    model: str | None = None
    threads: int | None = None
    runs: int | None = None
    mean_ms: float | None = None
    median_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    percentiles: Mapping[float, float] = field(default_factory=dict)
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_ms: float | None = None
    memory_mb: float | None = None
    facts: Facts = field(default_factory=dict)
