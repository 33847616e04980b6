"""A script of somebody's own repository; what torchopt2edge adds to it is between the lines.

python examples/compare_module.py [timing] [out]
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class SmallNet(nn.Module):
    """Scores scanned digits [N, 1, 8, 8] in 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(self.features(image).mean((2, 3)))
        return scores


def train(net: nn.Module, loader: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """Train with Adam, as any script does."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()


def main(timing: str = "quick", out: str = "outputs/compare_module") -> None:
    """Train the net, then ask which file of it to ship."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    training = TensorDataset(images[:1257], labels[:1257])
    test_loader = DataLoader(TensorDataset(images[1257:], labels[1257:]), batch_size=60)
    net = SmallNet()
    train(net, DataLoader(training, batch_size=64, shuffle=True), epochs=8)

    # ── torchopt2edge ────────────────────────────────────────────────────────────────────────
    import torchopt2edge as t2e

    samples = DataLoader(training, batch_size=64)  # not shuffled: the same samples every time
    result = t2e.compare(net, (images[:8],), samples, test_loader, timing=timing, out=out)
    print(*result.verdict.reasons, f"report: {result.out / 'report.md'}", sep="\n")
    # ─────────────────────────────────────────────────────────────────────────────────────────


if __name__ == "__main__":
    main(*sys.argv[1:])
