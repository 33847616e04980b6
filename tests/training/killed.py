"""A training in a process of its own: OUT SAVE_EVERY_S [DEVICES]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests import nets
from torchopt2edge.data.digits import Digits
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training.fit import fit
from torchopt2edge.training.loss import TaskLoss
from torchopt2edge.training.recipe import Recipe, seeded
from torchopt2edge.training.validation_split import splits_of


def train(out: Path, every_s: float, devices: int = 1) -> None:
    torch.set_num_threads(1)
    data = Digits(size=16, test_count=300, calibration_count=32)
    recipe = Recipe(
        epochs=3,
        batch_size=32 // devices,
        ema=0.9,
        clip=1.0,
        validation=100,
        best=True,
        checkpoint_s=every_s,
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_fork",
    )
    with seeded(0):
        net = torch.nn.Sequential(nets.tiny_resnet(), torch.nn.Dropout(0.2))
    fitted = fit(
        net,
        TaskLoss(Classification(label_smoothing=0.1)),
        splits_of(data, recipe),
        recipe,
        "killed",
        work=out / "work",
    )
    torch.save(net.state_dict(), out / "net.pt")
    (out / "resumed").write_text(str(fitted.facts.get("resumed_at_step", 0)))


if __name__ == "__main__":
    train(Path(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:]))
