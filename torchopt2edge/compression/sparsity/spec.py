"""Which weights to zero, how many and when: a value that the stage and `compress` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torchopt2edge.compression.schedules import Polynomial, Schedule


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """The smallest weights of convolutions and linear layers become zero and stay so.

    ``sparsity`` is the share of zeros at the end. ``scope`` ranks all weights together or each
    layer's own. ``pattern`` such as ``2:4`` keeps 2 of every 4 weights along the inputs, whatever
    ``sparsity`` says. ``ignore`` names layers, with * and ?, that stay dense. The default schedule
    is cubic (Zhu & Gupta 2017), from 30 % of zeros at once over the first half of the training.
    """

    sparsity: float = 0.7
    scope: Literal["global", "layer"] = "layer"
    pattern: str | None = None
    ignore: tuple[str, ...] = ()
    schedule: Schedule = field(default_factory=lambda: Polynomial(0.0, 0.5, 0.3))
