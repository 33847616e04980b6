from __future__ import annotations

import torch
from torch import Tensor, nn

from torchopt2edge.models import count


def test_macs_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 16·16 · 9 · 3 · 8
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 8·8 · 9 · 8
        nn.Conv2d(8, 12, 1, groups=4),  # 8·8 · 12 · 2
        nn.ConvTranspose2d(12, 6, 2, stride=2),  # 8·8 · 4 · 12 · 6
        nn.Flatten(),
        nn.Linear(6 * 256, 5),
    )
    parts = [256 * 9 * 24, 64 * 9 * 8, 64 * 12 * 2, 64 * 4 * 72, 6 * 256 * 5]
    assert count.macs(net, (3, 16, 16)) == sum(parts)


def test_a_layer_counts_for_each_run():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    assert count.macs(Twice(), (4,)) == 32
    assert count.macs(Twice(), (7, 4)) == 7 * 32


def test_counting_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    count.macs(net, (3, 8, 8))
    assert net.training
    assert not net[0]._forward_hooks
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert count.params(net) == 3 * 4 + 4 + 8
