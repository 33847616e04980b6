"""Somebody's LightningModule and Trainer on scanned digits. Lines of ours end in +t2e."""

from __future__ import annotations

import sys

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchopt2edge as t2e  # +t2e


def net(width: int = 48) -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    body = [block(1, width, 1), block(width, width, 2), block(width, width, 2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Digits(L.LightningModule):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.net = net(width)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def loaders() -> tuple[DataLoader, DataLoader]:
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(raw.target)
    train = TensorDataset(images[:1300], labels[:1300])
    test = TensorDataset(images[1300:], labels[1300:])
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=500)


def trainer(epochs: int, *callbacks: L.Callback) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **quiet)


def main(out: str) -> float:
    L.seed_everything(0)
    train, test = loaders()
    teacher, student = Digits(width=64), Digits()
    trainer(4).fit(teacher, train, test)
    prune = t2e.Prune(macs=0.5, schedule=t2e.Linear(begin=20, end=100, every=20))  # +t2e
    distill = t2e.Distill(teacher.net, "dist", alpha=0.5)  # +t2e
    callback = t2e.integrations.lightning.Compress(prune, distill=distill, out=out)  # +t2e
    fitting = trainer(8, callback)  # +t2e
    fitting.fit(student, train, test)
    accuracy = float(fitting.callback_metrics["accuracy"])
    print(f"{sum(p.numel() for p in student.parameters())} parameters, {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "outputs/small")
