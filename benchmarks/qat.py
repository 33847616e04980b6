"""Quantization-aware training on CIFAR-10: torch's fake-quantized top-1 and each runtime's int8.

A published ResNet-20 is lowered to int8 as it is (post-training) and after a few epochs with fake
quantization on 10 000 training images, the float net being its own teacher; then both again with
weights that take 15 values, where post-training loses points. Every file is scored in its runtime
on all test images.

    make bench SUITE=qat ARGS="../shared/data"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame
from benchmarks.cifar import BATCH, Exam

if TYPE_CHECKING:
    from torchopt2edge.data.cifar10_npz import Cifar10Npz
    from torchopt2edge.types import Artifact, Measurement

SAME = 0.2  # points between torch's fake quantization and a runtime
RUNTIMES = ("ort", "litert")


@dataclass(frozen=True)
class Way:
    """One way to int8: how many values the weights take, and how long they train."""

    name: str
    bits: int
    epochs: int
    lr: float


@dataclass(frozen=True)
class Found:
    """What a way gave: its facts, its rows, and the seconds of training and export."""

    way: Way
    facts: dict[str, Any]
    rows: list[Measurement]
    seconds: float

    def top1(self, runtime: str) -> float | None:
        """Return the top-1 of a runtime's int8 file."""
        hits = [row.metrics.get("top1") for row in self.rows if row.backend == runtime]
        return next(iter(hits), None)


def ways(options: argparse.Namespace) -> list[Way]:
    """Return the four ways."""
    few = options.bits
    return [
        Way("PTQ, 8 bits", 8, 0, 0.0),
        Way("QAT, 8 bits", 8, options.epochs, options.lr),
        Way(f"PTQ, {few} bits", few, 0, 0.0),
        Way(f"QAT, {few} bits", few, options.epochs_few, options.lr_few),
    ]


def source(options: argparse.Namespace, data: Cifar10Npz, out: Path) -> Artifact:
    """Return the published net as a model artifact."""
    import functools

    from torchopt2edge.models.cifar_resnet import cifar_resnet
    from torchopt2edge.stages.train import Train
    from torchopt2edge.types import Artifact

    depth = int(options.model.removeprefix("resnet"))
    weights = options.data / f"{options.model}_cifar10.pth"
    net = functools.partial(cifar_resnet, depth=depth)
    stage = Train(model=net, data=data, checkpoint=str(weights), epochs=0)
    out.mkdir()
    return Artifact("model", out, "published", stage({}, out))


def find(options: argparse.Namespace, work: Path) -> Iterator[Found]:
    """Go every way: train, export, lower, score."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.data import loader
    from torchopt2edge.data.cifar10_npz import Cifar10Npz
    from torchopt2edge.stages.qat import Qat

    folder: Path = options.data
    data = Cifar10Npz(
        test=str(folder / "cifar10_test.npz"),
        train=str(folder / "cifar10_train10k.npz"),
        calibration_count=options.images,
    )
    given = source(options, data, work / "published")
    tested = list(loader(data.split("test"), batch_size=BATCH))
    images = torch.cat([batch for batch, _ in tested])
    labels = torch.cat([batch for _, batch in tested])
    for index, way in enumerate(ways(options)):
        began, out = time.monotonic(), work / str(index)
        out.mkdir()
        stage = Qat(
            data=data,
            source="published",
            teacher="published",
            alpha=1.0,
            epochs=way.epochs,
            lr=way.lr,
            weight_bits=way.bits,
        )
        facts = stage({"source": given, "teacher": given}, out)
        seconds = time.monotonic() - began
        if way.bits == 8 and not way.epochs:  # the project's own calibration, from the float net
            (out / "ranges.json").unlink()
        result = t2e.compare(
            out / "model.onnx",
            calibration=loader(data.split("calibration"), batch_size=64),
            evaluate=Exam(images.numpy(), labels.numpy()),
            schemes=["int8"],
            calibration_samples=options.images,
            timing=options.protocol,
            out=work / f"run{index}",
            title=way.name,
        )
        facts = {**facts, "top1_float": given.facts["top1_test"]}
        yield Found(way, facts, result.rows, seconds)


def table(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return a line per way."""
    return [
        {
            "way": one.way.name,
            "epochs": one.way.epochs,
            "float top-1": one.facts["top1_float"],
            "fake-quantized": one.facts["top1_test"],
            **{f"{runtime} int8": one.top1(runtime) for runtime in RUNTIMES},
            "learned tensors": one.facts["learned"],
            "training s": one.seconds,
            "err": "; ".join(row.err for row in one.rows if row.err) or None,
        }
        for one in found
    ]


def goals(found: Sequence[Found]) -> list[frame.Goal]:
    """Runtimes say what torch says; training loses nothing, and wins where there is to win."""
    made = []
    for one in found:
        if one.way.epochs:
            for runtime in RUNTIMES:
                top1 = one.top1(runtime)
                off = None if top1 is None else round(abs(top1 - one.facts["top1_test"]), 6)
                what = f"{one.way.name}: points between fake-quantized and {runtime} int8"
                made.append(frame.Goal(what, SAME, off, "points"))
    plain, trained = found[2:]
    for runtime in RUNTIMES:
        base, top1 = plain.top1(runtime), trained.top1(runtime)
        won = None if base is None or top1 is None else round(top1 - base, 6)
        what = f"{trained.way.name}: points above {plain.way.name}, {runtime} int8"
        made.append(frame.Goal(what, 0.0, won, "points", at_least=True))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoints and .npz files")
    parser.add_argument("--model", default="resnet20", choices=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=512, help="calibration images")
    parser.add_argument("--bits", type=int, default=4, help="of the weights with fewer values")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--epochs-few", type=int, default=4, help="with fewer values")
    parser.add_argument("--lr-few", type=float, default=0.01, help="with fewer values")
    parser.add_argument("--protocol", default="smoke", help="smoke, quick or standard")
    options = parser.parse_args()
    run = frame.start("qat", options)
    with tempfile.TemporaryDirectory() as work:
        found = list(find(options, Path(work)))
    raw = {"rows": {one.way.name: [frame.slim(row) for row in one.rows] for one in found}}
    return run.finish(table(found), goals(found), raw)


if __name__ == "__main__":
    sys.exit(main())
