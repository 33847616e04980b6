"""What a run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torchopt2edge.types import BASELINE, Measurement, Verdict


@dataclass(frozen=True)
class Result:
    """What a run found; its folder ``out`` holds the same on disk.

    A run on several ``devices`` has a result for each by its name, all their rows together, and
    a verdict that names a winner only where it is the winner on all of them.
    """

    rows: list[Measurement]
    verdict: Verdict
    out: Path
    devices: Mapping[str, Result] = field(default_factory=dict)

    @property
    def worked(self) -> bool:
        """Whether a row came through; PyTorch's, which nobody ships, counts only alone."""
        shipped = [row for row in self.rows if row.backend != BASELINE] or self.rows
        return any(row.err is None for row in shipped)
