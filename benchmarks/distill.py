"""Distillation on CIFAR-10: a student with a teacher against the same without, seed by seed.

A small net learns 10 000 training images from a published ResNet-56 and, with the same seed and
as many epochs, from the labels alone; both are scored on the 10 000 test images. Then the
seconds of an epoch: plain, with the teacher running, with what the teacher said from the cache.

    make bench SUITE=distill ARGS="../shared/data"
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame
from benchmarks.sparsity import cifar, published

if TYPE_CHECKING:
    from torch import nn

    from torchopt2edge.stages.distill import Distill

CERTAIN, CACHED = 0.05, 1.15


def student(name: str) -> Callable[[], nn.Module]:
    """Return what builds the student."""
    if name == "mobilenet_v2_035":
        from torchopt2edge.models.torchvision_net import torchvision_net

        small = {"num_classes": 10, "width": 0.35, "small_input": True}
        return functools.partial(torchvision_net, name="mobilenet_v2", **small)
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    return functools.partial(cifar_resnet, depth=int(name.removeprefix("resnet")))


def taught(options: argparse.Namespace) -> Distill:
    """Return the stage of the taught student, for seed 0."""
    from torchopt2edge.stages.distill import Distill

    return Distill(
        data=cifar(options.data, 64),
        student=student(options.student),
        loss=options.loss,
        temperature=4.0,
        alpha=0.9,
        epochs=options.epochs,
        lr=0.1,
        batch_size=128,
        views=options.epochs,
        view_seed=0,
        cache=True,
    )


def pairs(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return a line per seed: the student's score with the teacher and without."""
    from torchopt2edge.stages.train import Train
    from torchopt2edge.types import Artifact

    stage = taught(options)
    (work / "teacher").mkdir()
    facts = published(options.data, "resnet56", stage.data)({}, work / "teacher")
    teacher = Artifact("model", work / "teacher", "published", facts)
    made = []
    for seed in range(options.seeds):
        one = replace(stage, seed=seed)
        fields = {
            name: getattr(one, name)
            for name in ("data", "epochs", "lr", "batch_size", "views", "view_seed", "seed")
        }
        plain = Train(model=student(options.student), **fields)
        scores = {}
        for name, made_by, inputs in (("taught", one, {"teacher": teacher}), ("plain", plain, {})):
            out = work / "runs" / f"{name}{seed}"
            out.mkdir(parents=True)
            scores[name] = made_by(inputs, out)["top1_test"]
        made.append({"seed": seed, **scores, "gain": scores["taught"] - scores["plain"]})
        frame.stdout().print(made[-1])
    return made


def epochs(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return the seconds of an epoch, plain, cached and live, in turns."""
    from torchopt2edge.models.artifact import load_model
    from torchopt2edge.stages.teacher import loss_of
    from torchopt2edge.training.fit import fit
    from torchopt2edge.training.loss import TaskLoss
    from torchopt2edge.training.validation_split import splits_of
    from torchopt2edge.types import Artifact

    stage = replace(taught(options), epochs=1, views=1, lr=0.01)
    teacher = Artifact("model", work / "teacher", "published")
    assert load_model(teacher.path)
    splits = splits_of(stage.data, stage)
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: TaskLoss(stage.task),
        "cached": lambda: loss_of(stage, {"teacher": teacher}, splits, work / "timing" / "x"),
        "live": lambda: loss_of(
            replace(stage, cache=False), {"teacher": teacher}, splits, work / "timing" / "x"
        ),
    }
    made: list[dict[str, Any]] = []
    for turn in range(options.turns + 1):
        seconds = {}
        for name, make in ways.items():
            if name == "live" and turn > 2:
                continue
            net, loss = student(options.student)(), make()
            began = time.monotonic()
            fit(net, loss, splits, stage, name)
            seconds[name] = time.monotonic() - began
            getattr(loss, "close", lambda: None)()
        if turn:  # the first fills the cache and warms up
            made.append(seconds)
    return made


def goals(found: Sequence[dict[str, Any]], spent: Sequence[dict[str, float]]) -> list[frame.Goal]:
    """Hold the figures against what was promised."""
    import numpy as np
    from scipy import stats

    gains = [line["gain"] for line in found]
    made = []
    if len(gains) > 1:
        test = stats.ttest_1samp(gains, 0.0, alternative="greater")
        ends = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
        mean = float(np.mean(gains))
        what = f"student with teacher above without, mean of {len(gains)} seeds"
        made.append(frame.Goal(what, 0.0, mean, "points", True, float(ends.low), float(ends.high)))
        made.append(frame.Goal("paired t-test, one-sided: p", CERTAIN, float(test.pvalue)))
    ratios = [one["cached"] / one["plain"] for one in spent]
    if ratios:
        low, high = min(ratios), max(ratios)
        what = "epoch with a cached teacher over a plain epoch"
        made.append(frame.Goal(what, CACHED, float(np.median(ratios)), "×", False, low, high))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoint and .npz files")
    parser.add_argument("--student", default="resnet8", help="resnet8 or mobilenet_v2_035")
    parser.add_argument("--loss", default="kd", help="kd, dkd or dist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5, help="timed epochs of each kind")
    options = parser.parse_args()
    run = frame.start("distill", options)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        found = pairs(options, work)
        spent = epochs(options, work)
    live = [one["live"] / one["plain"] for one in spent if "live" in one]
    results = [*found, *({"seed": "epoch s", **one} for one in spent)]
    raw = {"pairs": found, "epochs": spent, "live ÷ plain": live}
    return run.finish(results, goals(found, spent), raw)


if __name__ == "__main__":
    sys.exit(main())
