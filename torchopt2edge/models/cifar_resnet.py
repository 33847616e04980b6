"""The residual nets of the CIFAR section of He et al. 2016, whose shortcuts have no parameters.

Source: "Deep Residual Learning for Image Recognition", section 4.2, shortcut option A.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from torchopt2edge.errors import ModelError


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut: [N, inputs, H, W] → [N, outputs, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.missing = outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, and zeros for the channels that are not there yet.

        ``x[:, :, ::2, ::2]`` is written as a 1×1 pooling with stride, which computes the same:
        both runtimes have a kernel for a pooling where a strided slice leaves the accelerated
        and the quantized part of the graph.
        """
        if self.stride != 1:
            x = F.max_pool2d(x, 1, self.stride)
        if self.missing:
            before = self.missing // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.missing - before))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, inputs, H, W] → float [N, outputs, H/stride, W/stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem, three stages of blocks at full, half and quarter resolution, and a classifier."""

    def __init__(self, blocks: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks, width, width, 1)
        self.layer2 = _stage(blocks, width, 2 * width, 2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Float [N, 3, H, W], normalised → float logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        out: Tensor = self.linear(x)
        return out


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def cifar_resnet(depth: int = 20, num_classes: int = 10, width: int = 16) -> nn.Module:
    """Return a ResNet of ``depth`` = 6n + 2 layers for small images, freshly initialised.

    The published CIFAR-10 checkpoints load into depth 20, 32, 44, 56 and 110 at width 16; depth
    8 and 14 and other widths are for training from scratch.

    Raises:
        ModelError: ``depth`` is not 6n + 2 with n ≥ 1, or ``width`` is below 1.
    """
    if depth < 8 or (depth - 2) % 6 or width < 1:
        raise ModelError(
            f"a CIFAR ResNet cannot have depth {depth} and width {width}",
            hint="use depth=6n+2, such as 8, 14, 20 or 56, and a width of at least 1",
        )
    return CifarResNet((depth - 2) // 6, num_classes, width)
