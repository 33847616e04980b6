"""Random shifts and flips of one image, drawn from torch's global generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def shifted(image: Tensor, reach: int) -> Tensor:
    """Shift [C, H, W] by up to ``reach`` pixels each way; the border's pixels fill the gap."""
    import torch

    if reach == 0:
        return image
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image[None], (reach,) * 4, mode="replicate")[0]
    down, right = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    return padded[:, down : down + height, right : right + width].contiguous()


def flipped(image: Tensor) -> Tensor:
    """Mirror [C, H, W] left to right, every second time."""
    import torch

    return image.flip(2) if torch.rand(()) < 0.5 else image
