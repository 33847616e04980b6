"""A net that enlarges images: it works at the small size and unfolds its channels at the end.

Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network"; the residual blocks without normalisation are those of Lim
et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchopt2edge.errors import ModelError


class Residual(nn.Module):
    """Two 3×3 convolutions beside their input: [N, width, H, W] → the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, width, H, W] → the same shape."""
        out: Tensor = x + self.body(x)
        return out


class Espcn(nn.Module):
    """Float [N, C, H, W] from 0 to 1 → [N, C, scale·H, scale·W]: pixels repeated, and detail."""

    def __init__(self, scale: int, width: int, blocks: int, channels: int) -> None:
        super().__init__()
        unfolded = channels * scale**2
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.detail = nn.Conv2d(width, unfolded, 3, padding=1)
        self.repeat = nn.Conv2d(channels, unfolded, 1, bias=False).requires_grad_(False)
        self.unfold = nn.PixelShuffle(scale)
        with torch.no_grad():
            self.detail.weight.mul_(0.1)
            self.repeat.weight.copy_(
                torch.eye(channels).repeat_interleave(scale**2, 0)[:, :, None, None]
            )

    def forward(self, image: Tensor) -> Tensor:
        """Enlarge the images; the values are not clipped."""
        x = torch.relu(self.stem(image))
        x = self.detail(self.blocks(x)) + self.repeat(image)
        out: Tensor = self.unfold(x)
        return out


def espcn(scale: int = 2, width: int = 32, blocks: int = 4, channels: int = 3) -> nn.Module:
    """Return a freshly initialised net that enlarges by ``scale``.

    Raises:
        ModelError: a number below 1, or a scale that enlarges nothing.
    """
    if scale < 2 or min(width, blocks, channels) < 1:
        raise ModelError(
            f"no net enlarges with scale={scale}, width={width}, blocks={blocks}",
            hint="a scale of at least 2, width and blocks of at least 1",
        )
    return Espcn(scale, width, blocks, channels)
