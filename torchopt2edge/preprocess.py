"""What makes a model's input of a raw image: one object, stored with the file it belongs to.

Standard library and numpy only, so that a device without torch can execute it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Preprocess:
    """Raw image [N, H, W, C] or [N, C, H, W] → the model's float32 input [N, C, H, W].

    In this order: ``resize`` (the shorter side, or height and width; bilinear), ``crop`` (centre,
    height and width), times ``scale``, minus ``mean``, divided by ``std`` (per channel).
    ``layout`` is the raw array's: ``NHWC`` or ``NCHW``.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: str = "NHWC"
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as kept in ``signature.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read what ``to_json`` wrote."""
        pairs = {key: data.get(key) for key in ("resize", "crop")}
        sizes = {key: tuple(v) if isinstance(v, list | tuple) else v for key, v in pairs.items()}
        return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"]), **sizes})
