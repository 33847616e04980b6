"""What one step of training sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Preprocessed ``inputs`` [N, …] with their ``targets``, and which samples they are.

    ``targets`` are whatever the task's loss takes (int64 [N] for classification), None where
    the data has none. ``index`` (int64 [N]) names the samples of the split and ``view`` the
    augmentation they were drawn with: the two decide every pixel. Both are None when they do
    not, as for mixed images or in a loop that does not say.
    """

    inputs: Tensor
    targets: Any = None
    index: Tensor | None = None
    view: int | None = None
