"""Any of several labels, or one yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MultiLabel:
    """Binary cross entropy of every label's logit; a label is given where its logit is positive.

    Scored by ``exact_match`` (all labels of a sample right) and ``label_accuracy``. Targets are 0
    or 1 [N, labels], or [N] for a net with one output: the binary case.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Float logits [N, labels] → scalar."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        wanted = targets.to(outputs.dtype).reshape(outputs.shape)
        return binary_cross_entropy_with_logits(outputs, wanted)

    def metric(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """Logits [N, labels] and 0 or 1 of the same number → two scores, 0 to 100."""
        right = self.predict(outputs) == targets.reshape(outputs.shape).astype(bool)
        return {
            "exact_match": 100.0 * right.all(axis=1),
            "label_accuracy": 100.0 * right.mean(axis=1),
        }

    def predict(self, outputs: Array) -> Array:
        """Logits [N, labels] → which labels are given, bool [N, labels]."""
        given: Array = outputs.reshape(len(outputs), -1) > 0
        return given
