"""Somebody's training script: scanned digits, a small net, a plain loop. Ours: +t2e."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchopt2edge import Linear, Prune, compress  # +t2e


def digits() -> tuple[TensorDataset, TensorDataset]:
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(raw.target)
    return TensorDataset(images[:1300], labels[:1300]), TensorDataset(images[1300:], labels[1300:])


def net() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    body = [block(1, 32, 1), block(32, 64, 2), block(64, 64, 1), block(64, 64, 2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def accuracy(model: nn.Module, test: TensorDataset) -> float:
    images, labels = test.tensors
    with torch.no_grad():
        return float((model.eval()(images).argmax(1) == labels).float().mean())


def main(out: str) -> float:
    torch.manual_seed(0)
    train, test = digits()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    model = net().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * len(loader))
    c = compress(model, train[:2][0], prune=Prune(macs=0.4, schedule=Linear(40, 120)))  # +t2e
    for epoch in range(8):
        for images, labels in loader:
            loss = c.loss(images, labels, F.cross_entropy)  # +t2e
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            c.step()  # +t2e
        print(f"epoch {epoch + 1}: {accuracy(model, test):.3f}")
        model.train()
    c.finish(out)  # +t2e
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {accuracy(model, test):.3f}")
    return accuracy(model, test)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "outputs/small")
