"""Accuracy of a net, for the facts of a stage: reported, never used to choose."""

from __future__ import annotations

import torch
from torch import nn

from torchopt2edge.data.dataset import DataSet, Samples, loader
from torchopt2edge.errors import DataError
from torchopt2edge.types import Facts


def top1(net: nn.Module, samples: Samples, batch_size: int = 128) -> float:
    """Return the per cent of samples whose largest logit is the label's."""
    right = 0
    net.eval()
    with torch.no_grad():
        for images, labels in loader(samples, batch_size, shuffle=False):
            right += int((net(images).argmax(1) == labels).sum())
    return 100 * right / max(1, len(samples))


def top1_test(net: nn.Module, data: DataSet) -> Facts:
    """Return ``{"top1_test": per cent}``, or why there is none when the data has no test split."""
    try:
        test = data.split("test")
    except DataError as error:
        return {"top1_test_absent": error.what}
    return {"top1_test": round(top1(net, test), 3)}
