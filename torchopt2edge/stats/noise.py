"""How far float32 itself moves the outputs of a model: what no check may call wrong.

Two correct files of one model round differently. How much of that reaches an output depends on
the model, so it is measured (`quantize.graph.float_noise`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchopt2edge.stats.sqnr import sqnr_db

Array = np.ndarray[Any, Any]

MARGIN = 10.0  # a runtime's noise may be this many times the measured one
SAME_DB = 80.0  # closer is the same in float32, whatever the conditioning
_MIN_SHARE = 0.999  # of integers that are equal: labels flip on near ties


@dataclass(frozen=True)
class Noise:
    """The root of the mean square by which float32 moves each float output, in its own units."""

    rms: Mapping[str, float] = field(default_factory=dict)

    def allows(self, name: str, error: Array, scale: float = 1.0) -> bool:
        """Whether an error is no larger than the noise; ``scale`` is 2¹¹ for float16."""
        limit = MARGIN * scale * self.rms.get(name, 0.0)
        finite = error[np.isfinite(error)]
        if not finite.size:
            return not error.size
        return bool(np.sqrt(np.mean(np.square(finite, dtype=np.float64))) <= limit)

    def explains(self, name: str, want: Array, found: Array) -> bool:
        """Whether two answers are the same in float32."""
        if want.shape != found.shape or not (np.isfinite(want) == np.isfinite(found)).all():
            return False
        if not np.issubdtype(want.dtype, np.floating):
            return not want.size or float(np.mean(want == found)) >= _MIN_SHARE
        if sqnr_db(want, found) >= SAME_DB:
            return True
        finite = np.isfinite(want)
        return self.allows(name, found[finite].astype(np.float64) - want[finite])
