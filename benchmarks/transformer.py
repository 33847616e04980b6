"""A vision transformer in int8: what it loses, whether both runtimes answer alike, what it gains.

A small `torchvision` ViT (32×32 pixels, 64 tokens and the class token, 4 blocks of 48 features) is
trained on scikit-learn's digits, made into files with the defaults, scored and timed. Norms, GELU,
Softmax, the products of attention and the residual stream are in float in both runtimes (rules I1
to I5 of `torchopt2edge.quantize.float_ops`); all linear layers are in integers.

    make bench SUITE=transformer
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame
from benchmarks.cifar import Exam

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

MOST_LOST, LEAST_ALIKE = 1.0, 99.0
BATCH, FASTEST = 64, 2e-3


def trained(batches: Iterable[tuple[Tensor, Tensor]], epochs: int, seed: int) -> nn.Module:
    """Return the net after so many epochs over the images [N, 3, 32, 32] and their classes."""
    import torch
    from torch.nn import functional
    from torchvision.models import VisionTransformer

    torch.manual_seed(seed)
    net = VisionTransformer(32, 4, 4, 4, 48, 96, num_classes=10)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    torch.nn.init.normal_(net.heads.head.weight, std=0.02)  # it begins at zero, for fine-tuning
    descent = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = epochs * -(-len(images) // BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(descent, FASTEST, total_steps=steps)
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(net(images[some]), labels[some])
            descent.zero_grad()
            loss.backward()
            descent.step()
            pace.step()
    return net.eval()


def main() -> int:
    """Run the suite."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.data import loader
    from torchopt2edge.data.digits import Digits

    parser = frame.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order")
    parser.add_argument("--protocol", default="quick")
    options = parser.parse_args()
    run = frame.start("transformer", options)
    data = Digits(seed=options.seed)
    net = trained(loader(data.split("train"), batch_size=BATCH), options.epochs, options.seed)
    tested = list(loader(data.split("test"), batch_size=BATCH))
    exam = Exam(*(torch.cat(part).numpy() for part in zip(*tested, strict=True)))
    with tempfile.TemporaryDirectory() as work:
        found = t2e.compare(
            net,
            (torch.randn(4, 3, 32, 32),),
            loader(data.split("calibration"), batch_size=BATCH),
            exam,
            schemes=("fp32", "int8"),
            timing=options.protocol,
            out=Path(work) / "run",
        )
    base = next(row.metrics["top1"] for row in found.rows if row.backend == "torch")
    rows: list[dict[str, Any]] = [
        {
            "file": row.candidate,
            "top-1": row.metrics.get("top1"),
            "lost": round(base - row.metrics["top1"], 6) if "top1" in row.metrics else None,
            "SQNR dB": row.metrics.get("sqnr_db"),
            "MACs in int8 %": row.facts.get("int8_macs"),
            "latency ms": row.metrics.get("latency_ms"),
            "file MB": row.metrics.get("size_mb"),
            "err": row.err,
        }
        for row in found.rows
    ]
    whole = [row for row in found.rows if row.scheme == "int8"]
    answers = [exam.answer(row) for row in whole]
    alike = None
    if len(answers) == 2 and answers[0] is not None and answers[1] is not None:
        alike = 100.0 * float((answers[0] == answers[1]).mean())
    return run.finish(rows, goals(rows, alike), {"rows": [frame.slim(row) for row in found.rows]})


def goals(rows: list[dict[str, Any]], alike: float | None) -> list[frame.Goal]:
    """Both int8 files lose next to nothing, and give the same answers."""
    made = [
        frame.Goal(f"{row['file']}: lost against fp32", MOST_LOST, row["lost"], "points")
        for row in rows
        if row["file"].endswith("int8")
    ]
    what = "int8, ORT and LiteRT answer alike"
    return [*made, frame.Goal(what, LEAST_ALIKE, alike, "%", at_least=True)]


if __name__ == "__main__":
    sys.exit(main())
