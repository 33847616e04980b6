"""What a net is for: how it learns, how it is scored, what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]


class Task(Protocol):
    """A frozen dataclass; a user's own is a ``_target_`` with these three."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar, for what the net gave and what was wanted."""

    def metric(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """Return one score per sample [N] by name, higher is better; the first is compared.

        ``outputs`` is the net's first output in any runtime, [N, …], in numpy. Per sample, so that
        two files that answered the same samples can be compared in pairs. The name tells the
        unit (``top1``: 0 or 100 per cent; ``psnr_db``).
        """

    def predict(self, outputs: Array) -> Array:
        """Return what the net answers: a class [N], labels [N, K], an image."""
