"""What to cut, how much and when: a value that the stage and `compress` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torchopt2edge.compression.schedules import OneShot, Schedule

Importance = Literal["group_l1", "group_l2", "bn_scale", "fpgm", "taylor", "random"]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Channels that depend on each other go together (Fang et al. 2023, "DepGraph").

    One budget: ``macs`` or ``params`` is the share that stays; without them ``target`` says it in
    words: ``macs:0.5``, ``params:0.4`` or ``latency_ms:12@ort-int8``, which is met by measuring.
    ``scope`` ranks the channels of all groups together or takes the same share of each.
    ``ratios`` maps patterns of layer names to the share of their channels to take, ``ignore``
    names layers that stay whole; the outputs of the classifier always do. What is left of a cut
    layer is a multiple of ``round_to`` channels and at least 1 - ``max_cut`` of them; None takes
    16, at which integer kernels compute, where the budget can be met with it, else 8.
    ``regularize`` pushes what will be cut towards zero before it is, with ``strength``.
    Layers that cannot be cut soundly are skipped and named, or an error, as ``uncuttable`` says.
    """

    macs: float | None = None
    params: float | None = None
    target: str | None = None
    importance: Importance = "group_l2"
    scope: Literal["global", "uniform"] = "global"
    ratios: Mapping[str, float] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    round_to: int | None = None
    max_cut: float = 0.75
    schedule: Schedule = field(default_factory=OneShot)
    regularize: Literal["none", "bn_gamma", "group_lasso"] = "none"
    strength: float = 1e-4
    uncuttable: Literal["skip", "error"] = "skip"
