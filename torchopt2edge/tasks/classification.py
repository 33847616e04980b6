"""One of several classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Classification:
    """Cross entropy, scored by the share of samples whose largest logit is the label's.

    ``label_smoothing`` as in Szegedy et al. 2016. Targets are int64 [N], or float [N, classes]
    for mixed images.
    """

    label_smoothing: float = 0.0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Float logits [N, classes] → scalar."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def metric(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """Logits [N, classes] and labels [N] → ``top1``, 0 or 100 for each."""
        return {"top1": 100.0 * (outputs.argmax(axis=1) == targets)}

    def predict(self, outputs: Array) -> Array:
        """Logits [N, classes] → the class [N]."""
        classes: Array = outputs.argmax(axis=1)
        return classes
