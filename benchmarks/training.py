"""The training loop: what it costs over a loop by hand, and whether a killed run ends the same.

ResNet-20 on CIFAR-10's training images (scikit-learn's digits without DATA): epochs of our loop and
of a dozen lines of plain PyTorch, over the same data set, in turns. Then a training in a process of
its own that is killed at random moments until it ends, against one that nobody disturbs.

    make bench SUITE=training ARGS="../shared/data"
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import frame

OVERHEAD = 1.05


def data_of(folder: Path | None) -> Any:
    """Return the data set."""
    from benchmarks.sparsity import cifar
    from torchopt2edge.data.digits import Digits

    return Digits() if folder is None else cifar(folder, 64)


def by_hand(net: Any, samples: Any, batch: int, lr: float) -> None:
    """Train one epoch in plain PyTorch: what anybody would write."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader

    net.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for images, labels in DataLoader(samples, batch, shuffle=True):
        images = images.to(memory_format=torch.channels_last)
        loss = cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def turns(options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the seconds of an epoch of each loop, in turns, the first left out."""
    from torchopt2edge.models.cifar_resnet import cifar_resnet
    from torchopt2edge.tasks.classification import Classification
    from torchopt2edge.training.fit import fit
    from torchopt2edge.training.loss import TaskLoss
    from torchopt2edge.training.recipe import Recipe

    samples = data_of(options.data).split("train")
    recipe = Recipe(epochs=1, batch_size=128, lr=0.01, warmup=0, accelerator="cpu")
    made = []
    for turn in range(options.turns + 1):
        net, seconds = cifar_resnet(20), {}
        began = time.monotonic()
        fit(net, TaskLoss(Classification()), samples, recipe, "ours")
        seconds["ours"] = time.monotonic() - began
        began = time.monotonic()
        by_hand(net, samples, 128, 0.01)
        seconds["by hand"] = time.monotonic() - began
        if turn:
            made.append(seconds)
    return made


def train(out: Path, folder: Path | None) -> None:
    """Train a net to its end, from where it was killed: the child's part."""
    import torch

    from torchopt2edge.models.cifar_resnet import cifar_resnet
    from torchopt2edge.tasks.classification import Classification
    from torchopt2edge.training.fit import fit
    from torchopt2edge.training.loss import TaskLoss
    from torchopt2edge.training.recipe import Recipe, seeded

    with seeded(0):
        net = cifar_resnet(8)
    recipe = Recipe(epochs=2, batch_size=128, ema=0.99, checkpoint_s=1.0, accelerator="cpu")
    samples = data_of(folder).split("train")
    fit(net, TaskLoss(Classification()), samples, recipe, "child", work=out / "work")
    torch.save(net.state_dict(), out / "net.pt")


def killed(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Kill a training at random moments, and count the weights that end up different."""
    import torch

    draw = random.Random(options.seed)
    command = [sys.executable, "-m", "benchmarks.training", "--inside"]
    given = [str(options.data)] if options.data else []
    folders = [work / "whole", work / "broken"]
    for out in folders:
        out.mkdir()
    began = time.monotonic()
    subprocess.run([*command, str(folders[0]), *given], cwd=frame.ROOT, check=True)
    whole = time.monotonic() - began
    for _ in range(options.kills):
        child = subprocess.Popen([*command, str(folders[1]), *given], cwd=frame.ROOT)
        time.sleep(whole * (0.4 + 0.5 * draw.random()))
        child.send_signal(signal.SIGKILL)
        child.wait()
    subprocess.run([*command, str(folders[1]), *given], cwd=frame.ROOT, check=True)
    states = [torch.load(out / "net.pt", weights_only=True) for out in folders]
    wrong = sum(int((states[0][key] != states[1][key]).sum()) for key in states[0])
    return {
        "kills": options.kills,
        "weights": sum(v.numel() for v in states[0].values()),
        "different": wrong,
    }


def goals(spent: Sequence[dict[str, float]], resumed: dict[str, Any]) -> list[frame.Goal]:
    """Hold the figures against what was promised."""
    import statistics

    ratios = [one["ours"] / one["by hand"] for one in spent]
    middle = statistics.median(ratios)
    return [
        frame.Goal(
            "our epoch over one by hand", OVERHEAD, middle, "×", False, min(ratios), max(ratios)
        ),
        frame.Goal("weights that a killed training ends with otherwise", 0, resumed["different"]),
    ]


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="a folder with the CIFAR-10 files")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        train(options.inside, options.data)
        return 0
    run = frame.start("training", options)
    spent = turns(options)
    with tempfile.TemporaryDirectory() as work:
        resumed = killed(options, Path(work))
    results = [*({"epoch s": turn, **one} for turn, one in enumerate(spent, 1)), resumed]
    return run.finish(results, goals(spent, resumed), {"epochs": spent, "resume": resumed})


if __name__ == "__main__":
    sys.exit(main())
