"""A network whose int8 collapses: plain minimum and maximum against the defaults and a budget.

Between the two convolutions of every block of a published ResNet-20 each channel is multiplied by
a random factor between 10^-1.5 and 10^1.5 and divided by it again: the same function in float,
and ranges that 8 bits cannot hold, as in some MobileNets. It is quantized with plain minimum and
maximum, with the defaults (which may equalize), and with equalization and bias correction off but
a budget of lost points (mixed precision). Scored in the runtimes on test images.

    make bench SUITE=collapse ARGS=../shared/data
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame
from benchmarks.cifar import BATCH, Exam

if TYPE_CHECKING:
    from torch import nn

    from torchopt2edge import Quantize

DECADES = 1.5
MOST_LOST, BUDGET = 0.5, 1.0  # points


def planted(folder: Path, seed: int) -> nn.Module:
    """Return the net with its channels scaled apart."""
    import torch

    from torchopt2edge.models.artifact import load_checkpoint
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    net = cifar_resnet(20).eval()
    load_checkpoint(net, folder / "resnet20_cifar10.pth")
    chance = torch.Generator().manual_seed(seed)
    for block in net.modules():
        if hasattr(block, "conv1") and hasattr(block, "conv2"):
            exponents = 2 * torch.rand(block.bn1.num_features, generator=chance) - 1
            factors = 10 ** (DECADES * exponents)
            with torch.no_grad():
                block.bn1.weight *= factors
                block.bn1.bias *= factors
                block.conv2.weight /= factors[None, :, None, None]
    return net


def ways() -> dict[str, Quantize]:
    """Return the ways to quantize it."""
    import torchopt2edge as t2e

    return {
        "minmax": t2e.Quantize(observer="minmax", equalize=False, bias_correction=False),
        "defaults": t2e.Quantize(),
        "budget": t2e.Quantize(equalize=False, bias_correction=False, max_drop=BUDGET),
    }


def main() -> int:
    """Run the suite."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.data import loader
    from torchopt2edge.data.cifar10_npz import Cifar10Npz

    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoint and .npz files")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--seed", type=int, default=0, help="of the factors")
    options = parser.parse_args()
    run = frame.start("collapse", options)
    data = Cifar10Npz(
        test=str(options.data / "cifar10_test.npz"),
        train=str(options.data / "cifar10_train10k.npz"),
        calibration_count=768,
    )
    tested = list(loader(data.split("test"), batch_size=BATCH))
    images, labels = (torch.cat(part)[: options.test].numpy() for part in zip(*tested, strict=True))
    net, example = planted(options.data, options.seed), (torch.randn(4, 3, 32, 32),)
    rows: list[dict[str, Any]] = []
    raw = {}
    for name, how in ways().items():
        with tempfile.TemporaryDirectory() as work:
            found = t2e.quantize(
                net,
                example,
                loader(data.split("calibration"), batch_size=64),
                Exam(images, labels),
                schemes=("int8",),
                quantize=how,
                out=Path(work) / "run",
            )
            context = json.loads((Path(work) / "run" / "context.json").read_text())
        raw[name] = {"decision": context["decisions"], "rows": [frame.slim(x) for x in found.rows]}
        base = next(row.metrics["top1"] for row in found.rows if row.backend == "torch")
        rows += [
            {
                "quantized with": name,
                "file": row.candidate,
                "top-1": row.metrics.get("top1"),
                "lost": round(base - row.metrics["top1"], 6) if "top1" in row.metrics else None,
                "SQNR dB": row.metrics.get("sqnr_db"),
                "MACs in int8 %": row.facts.get("int8_macs"),
                "err": row.err,
            }
            for row in found.rows
        ]
    return run.finish(rows, goals(rows, raw), raw)


def goals(rows: list[dict[str, Any]], raw: dict[str, Any]) -> list[frame.Goal]:
    """Where plain ranges collapse the defaults lose next to nothing, and a budget is kept.

    The budget is kept on the calibration-side samples that the search judges by; what it costs on
    the test images stands in the table.
    """
    made = []
    for row in rows:
        if row["quantized with"] == "defaults" and row["file"] != "torch-fp32":
            what = f"defaults, {row['file']}: lost against fp32"
            made.append(frame.Goal(what, MOST_LOST, row["lost"], "points"))
    mixed = raw["budget"]["decision"][0]["mixed"]
    what = f"budget: lost on {mixed['judged_on']}"
    return [*made, frame.Goal(what, BUDGET, mixed["drop"], "points")]


if __name__ == "__main__":
    sys.exit(main())
