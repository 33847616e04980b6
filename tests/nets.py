"""Tiny nets, one for each way in which channels depend on each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchopt2edge.models.cifar_resnet import cifar_resnet


class Net(nn.Module):
    """A body, a mean over the pixels, a classifier of 4 classes called ``head``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 4)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


class Residual(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.stem_bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.inner_bn = nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.outer, self.outer_bn = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        y = F.relu(self.inner_bn(self.inner(x)))
        return F.relu(x + self.outer_bn(self.outer(y)))


class Concat(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.left, self.left_bn = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.right = nn.Conv2d(3, 8, 3)
        self.joint = nn.Conv2d(24, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        left = torch.sigmoid(self.left_bn(self.left(x)))
        return self.joint(torch.cat([left, F.relu(self.right(x))], 1))


class Depthwise(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.widen, self.widen_bn = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32)
        self.each = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.each_bn = nn.BatchNorm2d(32)
        self.narrow = nn.Conv2d(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu6(self.widen_bn(self.widen(x)))
        return self.narrow(F.relu6(self.each_bn(self.each(x))))


class Grouped(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.stem = nn.Conv2d(3, 16, 3)
        self.four, self.four_bn = nn.Conv2d(16, 32, 3, groups=4), nn.BatchNorm2d(32)
        self.last = nn.Conv2d(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.relu(self.four_bn(self.four(F.relu(self.stem(x)))))))


class Squeeze(Net):
    def __init__(self) -> None:
        super().__init__(16)
        self.stem, self.stem_bn = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)
        self.down, self.up = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.last = nn.Conv2d(32, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.last(x * gate)


def normed_net() -> nn.Module:
    """Layer norm over channels: taking one out changes what the others become."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 4))


def residual() -> nn.Module:
    return Residual()


def tiny_resnet(num_classes: int = 10) -> nn.Module:
    return cifar_resnet(8, num_classes, 8)


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give every normalisation statistics, scales and shifts as after a training."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()
