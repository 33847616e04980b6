"""Published CIFAR-10 nets on all 10 000 test images: top-1 in PyTorch, ORT and LiteRT.

The checkpoint is lowered to fp32 and int8 in both runtimes, calibrated on training images only,
and every file is scored in the runtime that will run it. How often two files answer alike is
counted on their answers, not on their hits.

    make bench SUITE=cifar ARGS="../shared/data --model resnet56"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame

if TYPE_CHECKING:
    import numpy as np

    from torchopt2edge.api import Result
    from torchopt2edge.interfaces import Session
    from torchopt2edge.types import Measurement

    Array = np.ndarray[Any, Any]

PUBLISHED = {"resnet20": 91.73, "resnet56": 93.39}
LEAST_INT8 = {"resnet20": 91.2, "resnet56": 92.9}
SAME, BATCH = 0.05, 500
MOST_LOST = 0.3  # points of int8 against fp32, post-training quantization alone
PAIR = "ort-int8 = litert-int8"
ALIKE = 99.0  # per cent of the images that both runtimes' int8 answer the same


@dataclass
class Exam:
    """Scores a session and keeps its answers; the row's ``call`` says which they are."""

    images: Array
    labels: Array
    answers: list[Array] = field(default_factory=list)

    def __call__(self, session: Session) -> dict[str, float]:
        """Return top-1 in per cent."""
        import numpy as np

        (given,), made = session.input_names, session.output_names[0]
        parts = [
            session({given: self.images[at : at + BATCH]})[made].argmax(1)
            for at in range(0, len(self.images), BATCH)
        ]
        answer = np.concatenate(parts)
        self.answers.append(answer)
        hits = 100.0 * float((answer == self.labels).mean())
        return {"top1": hits, "call": float(len(self.answers) - 1)}

    def answer(self, row: Measurement) -> Array | None:
        """Return a row's answers, None when it was never scored."""
        return self.answers[int(row.metrics["call"])] if "call" in row.metrics else None


def compare(options: argparse.Namespace, work: Path) -> tuple[Result, Exam]:
    """Lower the checkpoint, score every file and time it."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.data import loader
    from torchopt2edge.data.cifar10_npz import Cifar10Npz
    from torchopt2edge.models.artifact import load_checkpoint
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    folder: Path = options.data
    net = cifar_resnet(int(options.model.removeprefix("resnet"))).eval()
    load_checkpoint(net, folder / f"{options.model}_cifar10.pth")
    data = Cifar10Npz(
        test=str(folder / "cifar10_test.npz"),
        train=str(folder / "cifar10_train10k.npz"),
        calibration_count=options.images,
    )
    tested = list(loader(data.split("test"), batch_size=BATCH))
    images = torch.cat([batch for batch, _ in tested])[: options.test]
    labels = torch.cat([batch for _, batch in tested])[: options.test]
    exam = Exam(images.numpy(), labels.numpy())
    result = t2e.compare(
        net,
        (torch.zeros(1, 3, 32, 32),),
        loader(data.split("calibration"), batch_size=64),
        exam,
        calibration_samples=options.images,
        timing=options.protocol,
        out=work / "run",
        title=f"{options.model} on CIFAR-10",
    )
    return result, exam


def agreement(rows: Sequence[Measurement], exam: Exam, one: str, other: str) -> float | None:
    """Return the per cent of images to which two candidates give the same answer."""
    by_id = {row.candidate: exam.answer(row) for row in rows}
    first, second = by_id.get(one), by_id.get(other)
    if first is None or second is None:
        return None
    return 100.0 * float((first == second).mean())


def table(rows: Sequence[Measurement], exam: Exam) -> list[dict[str, Any]]:
    """Return a line per candidate, its answers beside PyTorch's."""
    from torchopt2edge.stats.paired import paired_drop

    made = []
    base = next((row for row in rows if row.backend == "torch"), None)
    reference = exam.answer(base) if base else None
    for row in rows:
        answer = exam.answer(row)
        lost: Mapping[str, float] = {}
        if reference is not None and answer is not None:
            lost = paired_drop(_bits(reference, exam), _bits(answer, exam))
        made.append(
            {
                "candidate": row.candidate,
                "top-1": row.metrics.get("top1"),
                "below PyTorch": lost.get("drop"),
                "from – to": (lost["drop_low"], lost["drop_high"]) if lost else None,
                "same answer as PyTorch %": agreement(rows, exam, "torch-fp32", row.candidate),
                "as the other runtime %": agreement(rows, exam, _twin(row), row.candidate),
                "SQNR dB": row.metrics.get("sqnr_db"),
                "ms": row.metrics.get("latency_ms"),
                "file MB": row.metrics.get("size_mb"),
                "ranges matched %": row.facts.get("ranges_matched"),
                "err": row.err,
            }
        )
    return made


def _twin(row: Measurement) -> str:
    """Return the candidate of the same scheme in the other runtime."""
    other = {"ort": "litert", "litert": "ort"}.get(row.backend, "")
    return f"{other}-{row.scheme}"


def _bits(answer: Array, exam: Exam) -> str:
    return "".join("1" if hit else "0" for hit in answer == exam.labels)


def goals(model: str, top1: Mapping[str, float], alike: float | None) -> list[frame.Goal]:
    """Hold the scores, by candidate, against the published one, and int8 against fp32."""
    made = []
    for candidate in ("torch-fp32", "ort-fp32", "litert-fp32"):
        found = top1.get(candidate)
        off = None if found is None else round(abs(found - PUBLISHED[model]), 6)
        what = f"{candidate}: points off the published {PUBLISHED[model]}"
        made.append(frame.Goal(what, SAME, off, "points"))
    for candidate in ("ort-int8", "litert-int8"):
        what, least = f"{candidate}: top-1", LEAST_INT8[model]
        made.append(frame.Goal(what, least, top1.get(candidate), "%", at_least=True))
        base, found = top1.get("torch-fp32"), top1.get(candidate)
        lost = None if base is None or found is None else round(base - found, 6)
        made.append(frame.Goal(f"{candidate}: lost against PyTorch", MOST_LOST, lost, "points"))
    made.append(frame.Goal("int8, ORT = LiteRT", ALIKE, alike, "%", at_least=True))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder of the checkpoints and .npz files")
    parser.add_argument("--model", default="resnet20", choices=sorted(PUBLISHED))
    parser.add_argument("--images", type=int, default=512, help="calibration images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--protocol", default="smoke", help="smoke, quick or standard")
    options = parser.parse_args()
    run = frame.start(f"cifar-{options.model}", options)
    with tempfile.TemporaryDirectory() as work:
        result, exam = compare(options, Path(work))
    rows = result.rows
    top1 = {row.candidate: row.metrics["top1"] for row in rows if "top1" in row.metrics}
    alike = {
        f"{one} = {other}": agreement(rows, exam, one, other)
        for one, other in (
            ("ort-int8", "litert-int8"),
            ("ort-fp32", "litert-fp32"),
            ("ort-fp32", "ort-int8"),
            ("litert-fp32", "litert-int8"),
        )
    }
    raw = {"agreement": alike, "rows": [frame.slim(row) for row in rows]}
    return run.finish(table(rows, exam), goals(options.model, top1, alike[PAIR]), raw)


if __name__ == "__main__":
    sys.exit(main())
