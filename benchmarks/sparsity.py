"""Unstructured sparsity: 70 % of the weights zero, by the article's schedule from 30 %.

Published ResNets are made sparse on CIFAR-10's 10 000 training images, the dense net being the
teacher, and lowered to both runtimes, where zeros are counted in the files, files are compressed,
and dense and sparse are timed in turns.

    make bench SUITE=sparsity ARGS="../shared/data"
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame

if TYPE_CHECKING:
    from torchopt2edge.data.cifar10_npz import Cifar10Npz
    from torchopt2edge.interfaces import Stage
    from torchopt2edge.stages.train import Train
    from torchopt2edge.types import Measurement

MOST_LOST, LEAST_ZEROS = 2.0, 69.0
FILES = ("ort-fp32", "ort-int8", "litert-fp32", "litert-int8")


def cifar(folder: Path, calibration: int) -> Cifar10Npz:
    """Return CIFAR-10 as it lies in a folder."""
    from torchopt2edge.data.cifar10_npz import Cifar10Npz

    test, train = folder / "cifar10_test.npz", folder / "cifar10_train10k.npz"
    return Cifar10Npz(test=str(test), train=str(train), calibration_count=calibration)


def published(folder: Path, model: str, data: Any) -> Train:
    """Return the stage that loads a published ResNet."""
    from torchopt2edge.models.cifar_resnet import cifar_resnet
    from torchopt2edge.stages.train import Train

    net = functools.partial(cifar_resnet, depth=int(model.removeprefix("resnet")))
    weights = str(folder / f"{model}_cifar10.pth")
    return Train(model=net, data=data, checkpoint=weights, epochs=0)


def stages(model: str, options: argparse.Namespace) -> tuple[dict[str, Stage], Any]:
    """Return the dense net and the sparse one, and their data."""
    from torchopt2edge.compression.schedules import Polynomial
    from torchopt2edge.stages.sparsify import Sparsify

    data = cifar(options.data, 512)
    sparse = Sparsify(
        data=data,
        source="dense",
        teacher="dense",
        sparsity=options.sparsity,
        scope="global",
        schedule=Polynomial(begin=0.0, end=0.6, initial=0.3, every=20),
        epochs=options.epochs,
        lr=0.005,
        batch_size=128,
        warmup=0.5,
        temperature=2.0,
        alpha=1.0,
    )
    return {"dense": published(options.data, model, data), "sparse": sparse}, data


def lines(model: str, rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a line per file: score, zeros, sizes and time, sparse against dense."""
    from torchopt2edge.stats.rounds import paired_ratio

    by_id = {row.candidate: row for row in rows if row.err is None}
    made = []
    for file in FILES:
        dense, sparse = by_id.get(f"dense-{file}"), by_id.get(f"sparse-{file}")
        if dense is None or sparse is None:
            made.append({"net": model, "file": file, "err": "no row"})
            continue
        ratio, low, high = paired_ratio(dense.latency_ns, sparse.latency_ns)
        drop = {key: sparse.metrics[key] for key in ("drop", "drop_low", "drop_high")}
        made.append(
            {
                "net": model,
                "file": file,
                "dense top-1": dense.metrics["top1"],
                "sparse top-1": sparse.metrics["top1"],
                "lost": drop["drop"],
                "±": (drop["drop_low"], drop["drop_high"]),
                "zeros %": sparse.facts["zeros"],
                "file ÷ dense": sparse.metrics["size_mb"] / dense.metrics["size_mb"],
                "gzip ÷ dense": sparse.metrics["gzip_mb"] / dense.metrics["gzip_mb"],
                "faster": ratio,
                "from – to": (low, high),
            }
        )
    return made


def goals(found: Sequence[Mapping[str, Any]]) -> list[frame.Goal]:
    """Hold the figures against what was promised; time is shown, for nothing is promised there."""
    made = []
    for line in found:
        name = f"{line['net']} {line['file']}"
        low, high = line.get("±", (None, None))
        lost = frame.Goal(
            f"{name}: points lost", MOST_LOST, line.get("lost"), "points", False, low, high
        )
        zeros = frame.Goal(
            f"{name}: zeros in the file", LEAST_ZEROS, line.get("zeros %"), "%", True
        )
        made += [lost, zeros]
    return made


def main() -> int:
    """Run the suite."""
    import torchopt2edge as t2e

    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoints and .npz files")
    parser.add_argument("--models", default="resnet20,resnet56")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--protocol", default="quick", help="smoke, quick or standard")
    options = parser.parse_args()
    run = frame.start("sparsity", options)
    found: list[dict[str, Any]] = []
    rows: list[Measurement] = []
    none = t2e.Constraints(max_drop=None)
    with tempfile.TemporaryDirectory() as work:
        for model in options.models.split(","):
            made, data = stages(model, options)
            out = Path(work) / model
            result = t2e.optimize(
                made, data, list(made), timing=options.protocol, out=out, constraints=none
            )
            found += lines(model, result.rows)
            rows += result.rows
    return run.finish(found, goals(found), {"rows": [frame.slim(row) for row in rows]})


if __name__ == "__main__":
    sys.exit(main())
