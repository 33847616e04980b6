"""Structured pruning to half of the multiply-accumulates: what it costs, and what it buys in time.

A published ResNet-56 is cut to half of its multiply-accumulates on CIFAR-10 and trained on for ten
epochs on 10 000 training images, the whole net being the teacher (its classes, and its residual
streams as hints); then the same again with channels chosen at random. Both are scored on the 10 000
test images. The dense and the pruned net are then timed in turns, in both runtimes, in fp32 and
int8; MobileNetV2 at 224 pixels (trained on a few digits: its speed counts, not its score) too.

    make bench SUITE=pruning ARGS="../shared/data"
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
from benchmarks.sparsity import cifar, published

if TYPE_CHECKING:
    from torchopt2edge.interfaces import Stage
    from torchopt2edge.types import Measurement

MOST_LOST, ABOVE_CHANCE, EFFICIENCY = 1.0, 0.5, 0.8
FILES = ("ort-fp32", "ort-int8", "litert-fp32", "litert-int8")
STREAMS = ("layer1", "layer2", "layer3")


def recipe(epochs: int) -> dict[str, Any]:
    """Return how the pruned net is trained: on what the dense one says, inside and out."""
    from torchopt2edge.compression.distillation.terms import KD, Hint

    hints = [Hint(student=name, teacher=name, weight=30.0) for name in STREAMS]
    return {
        "epochs": epochs,
        "lr": 0.01,
        "batch_size": 128,
        "warmup": 0.5,
        "loss": (KD(temperature=2.0), *hints),
        "alpha": 1.0,
    }


def resnet56(options: argparse.Namespace) -> tuple[dict[str, Stage], Any]:
    """Return the stages dense, pruned and random, and their data."""
    from torchopt2edge.stages.prune import Prune

    data = cifar(options.data, 512)
    made: dict[str, Stage] = {"dense": published(options.data, "resnet56", data)}
    for name, importance in (("pruned", "fpgm"), ("random", "random")):
        made[name] = Prune(
            data=data,
            source="dense",
            teacher="dense",
            macs=0.5,
            importance=importance,  # type: ignore[arg-type]
            round_to=8,  # what the search settles on: multiples of 16 do not reach a half
            seed=options.seed,
            **recipe(options.epochs),
        )
    return made, data


def mobilenet(options: argparse.Namespace) -> tuple[dict[str, Stage], Any]:
    """Return the stages dense and pruned of a MobileNetV2 at 224 pixels, and their data."""
    from torchopt2edge.data.digits import Digits
    from torchopt2edge.models.torchvision_net import torchvision_net
    from torchopt2edge.stages.prune import Prune
    from torchopt2edge.stages.train import Train

    data = Digits(size=224, test_count=1600, calibration_count=64)
    net = functools.partial(torchvision_net, name="mobilenet_v2", num_classes=10)
    dense = Train(model=net, data=data, epochs=1, batch_size=16, lr=0.02)
    pruned = Prune(data=data, source="dense", macs=0.5, epochs=0, batch_size=16)
    return {"dense": dense, "pruned": pruned}, data


def timed(stages: Mapping[str, Stage], data: Any, out: Path, options: argparse.Namespace) -> Any:
    """Lower, score and time the dense and the pruned net in one comparison."""
    import torchopt2edge as t2e

    ship = ["dense", "pruned"]
    kept = {name: stages[name] for name in ship}
    none = t2e.Constraints(max_drop=None)
    return t2e.optimize(
        kept, data, ship, timing=options.protocol, out=out, baseline=False, constraints=none
    ).rows


def speedups(name: str, rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a line per file: how much faster the pruned net is, beside the ratio of MACs."""
    from torchopt2edge.stats.rounds import paired_ratio

    by_id = {row.candidate: row for row in rows if row.err is None}
    made = []
    for file in FILES:
        dense, pruned = by_id.get(f"dense-{file}"), by_id.get(f"pruned-{file}")
        if dense is None or pruned is None:
            missing = [row.err for row in rows if row.candidate.endswith(file) and row.err]
            made.append({"net": name, "file": file, "err": "; ".join(missing)[:120] or "no row"})
            continue
        ratio, low, high = paired_ratio(dense.latency_ns, pruned.latency_ns)
        macs = dense.facts["macs"] / pruned.facts["macs"]
        made.append(
            {
                "net": name,
                "file": file,
                "dense ms": dense.metrics["latency_ms"],
                "pruned ms": pruned.metrics["latency_ms"],
                "faster": ratio,
                "from – to": (low, high),
                "MACs ratio": macs,
                "efficiency": ratio / macs,
                "pruned top-1": pruned.metrics.get("top1"),
                "size ratio": dense.metrics["size_mb"] / pruned.metrics["size_mb"],
                "flags": ",".join(pruned.facts.get("flags", ())) or None,
            }
        )
    return made


def answers(stages: Mapping[str, Stage], data: Any) -> dict[str, str]:
    """Return what each net hit on the test images, as 0 and 1."""
    from torchopt2edge.models.artifact import load_model
    from torchopt2edge.store import Store
    from torchopt2edge.tasks.classification import Classification
    from torchopt2edge.training.score import per_sample
    from torchopt2edge.workflow.progress import LogProgress
    from torchopt2edge.workflow.run_stages import run_stages

    made = run_stages(stages, Store.default(), LogProgress())
    test, task = data.split("test"), Classification()
    nets = {name: load_model(one.artifact.path) for name, one in made.items()}
    scored = {name: per_sample(net, test, task)["top1"] > 0 for name, net in nets.items()}
    return {name: "".join("1" if hit else "0" for hit in hits) for name, hits in scored.items()}


def accuracy(hits: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a line per net: its score, and what it lost, on the same images."""
    from torchopt2edge.stats.paired import paired_drop

    made = []
    for name, bits in hits.items():
        drop = paired_drop(hits["dense"], bits)
        ends = (drop["drop_low"], drop["drop_high"])
        score = 100 * bits.count("1") / len(bits)
        made.append({"net": f"resnet56 {name}", "top-1": score, "lost": drop["drop"], "±": ends})
    return made


def goals(hits: Mapping[str, str], lines: Sequence[Mapping[str, Any]]) -> list[frame.Goal]:
    """Hold the figures against what was promised."""
    from torchopt2edge.stats.paired import paired_drop

    made = []
    if hits:
        drop = paired_drop(hits["dense"], hits["pruned"])
        above = paired_drop(hits["pruned"], hits["random"])
        ends = {"low": drop["drop_low"], "high": drop["drop_high"]}
        what = "ResNet-56 at half the MACs: points lost"
        made.append(frame.Goal(what, MOST_LOST, drop["drop"], "points", **ends))
        ends = {"low": above["drop_low"], "high": above["drop_high"]}
        what = "the same: points above random channels"
        made.append(frame.Goal(what, ABOVE_CHANCE, above["drop"], "points", True, **ends))
    for line in lines:
        found, macs = line.get("efficiency"), line.get("MACs ratio", 1.0)
        low, high = (
            (end / macs for end in line.get("from – to", (None, None)) if end is not None)
            if found
            else (None, None)
        )
        what = f"{line['net']} {line['file']}: speed-up over the ratio of MACs"
        made.append(frame.Goal(what, EFFICIENCY, found, "×", True, low, high))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoints and .npz files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="all", choices=["all", "accuracy", "latency"])
    parser.add_argument("--protocol", default="quick", help="smoke, quick or standard")
    options = parser.parse_args()
    run = frame.start("pruning", options)
    hits: dict[str, str] = {}
    lines: list[dict[str, Any]] = []
    rows: list[Measurement] = []
    stages, data = resnet56(options)
    if options.part != "latency":
        hits = answers(stages, data)
    if options.part != "accuracy":
        with tempfile.TemporaryDirectory() as work:
            for name, (nets, given) in (
                ("resnet56", (stages, data)),
                ("mobilenet_v2", mobilenet(options)),
            ):
                found = timed(nets, given, Path(work) / name, options)
                lines += speedups(name, found)
                rows += found
    raw = {"hits": hits, "rows": [frame.slim(row) for row in rows]}
    return run.finish([*(accuracy(hits) if hits else ()), *lines], goals(hits, lines), raw)


if __name__ == "__main__":
    sys.exit(main())
