"""A larger image from a small one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SuperResolution:
    """Mean absolute difference (Zhao et al. 2017: sharper than squares), scored by PSNR and SSIM.

    Images are float [N, C, H, W] from 0 to 1. ``border`` pixels at each side are not scored, as is
    usual: nothing is known beyond them.
    """

    border: int = 2

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Images and those wanted, of one shape → scalar."""
        from torch.nn.functional import l1_loss

        return l1_loss(outputs, targets)

    def metric(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """Images and those wanted → ``psnr_db`` and ``ssim`` of each (torchmetrics)."""
        import torch
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        cut = slice(self.border, -self.border or None)
        mine, wanted = (
            torch.from_numpy(np.ascontiguousarray(one[:, :, cut, cut])).float()
            for one in (self.predict(outputs), targets)
        )
        psnr = [
            peak_signal_noise_ratio(a, b, data_range=1.0).clamp_max(100.0)
            for a, b in zip(mine, wanted, strict=True)
        ]
        each = structural_similarity_index_measure(mine, wanted, data_range=1.0, reduction="none")
        assert isinstance(each, torch.Tensor)  # a pair only when more is asked for
        return {"psnr_db": torch.stack(psnr).numpy(), "ssim": np.atleast_1d(each.numpy())}

    def predict(self, outputs: Array) -> Array:
        """Images [N, C, H, W], clipped to 0 … 1."""
        clipped: Array = np.clip(outputs, 0.0, 1.0)
        return clipped
