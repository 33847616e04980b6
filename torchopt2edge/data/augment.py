"""Random shifts and flips of one image, drawn from torch's global generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]


def shifted(image: Tensor, reach: int) -> Tensor:
    """Shift [C, H, W] by up to ``reach`` pixels each way; the border's pixels fill the gap."""
    import torch

    if reach == 0:
        return image
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image[None], (reach,) * 4, mode="replicate")[0]
    down, right = torch.randint(0, 2 * reach + 1, (2,)).tolist()
    return padded[:, down : down + height, right : right + width].contiguous()


def randaugmented(raw: Array, magnitude: int) -> Array:
    """Change a raw image uint8 [H, W, C] by two random operations of a strength of 1 to 30.

    0 leaves it alone. Source: Cubuk et al. 2020, "RandAugment", as torchvision has it.
    """
    if not magnitude:
        return raw
    import numpy as np
    import torch
    from torchvision.transforms.v2 import RandAugment

    image = torch.from_numpy(np.ascontiguousarray(raw)).permute(2, 0, 1)
    changed: Array = RandAugment(magnitude=magnitude)(image).permute(1, 2, 0).numpy()
    return changed


def flipped(image: Tensor) -> Tensor:
    """Mirror [C, H, W] left to right, every second time."""
    import torch

    return image.flip(2) if torch.rand(()) < 0.5 else image
