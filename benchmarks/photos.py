"""SqueezeNet 1.1 in int8 on photographs: how often it answers as fp32, and as the other runtime.

The photographs are cut into two halves; each half is answered by the int8 files whose ranges were
found on the other, so that every photograph is scored and none was calibrated on. Post-training
quantization only, with the defaults of `quantize`.

    make bench SUITE=photos ARGS=../shared/data
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets
from benchmarks.cifar import Exam

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MODEL = "squeezenet1_1"
FILES = ("ort-fp32", "ort-int8", "litert-fp32", "litert-int8")


def half(scored: Array, calibrating: Array, net: Any, work: Path) -> tuple[dict[str, Array], Any]:
    """Return the answers of every file on one half, and how it was quantized."""
    import numpy as np
    import torch

    import torchopt2edge as t2e

    exam = Exam(scored, np.zeros(len(scored), np.int64))
    result = t2e.quantize(
        net,
        (torch.from_numpy(calibrating[:4]),),
        [calibrating],
        exam,
        calibration_samples=len(calibrating),
        baseline=False,
        out=work,
    )
    found = {row.candidate: exam.answer(row) for row in result.rows if row.err is None}
    facts = {row.candidate: frame.slim(row) for row in result.rows}
    return {name: answer for name, answer in found.items() if answer is not None}, facts


def main() -> int:
    """Run the suite."""
    import numpy as np

    parser = frame.parser(__doc__)
    parser.add_argument("data", type=Path, help="the folder with photos/ and the weights")
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    run = frame.start("photos", options)
    net = nets.warmed(MODEL, options.data)
    images = nets.images(options.images, options.data).numpy()
    middle = len(images) // 2
    parts = [(images[:middle], images[middle:]), (images[middle:], images[:middle])]
    answers: dict[str, list[Array]] = {name: [] for name in FILES}
    raw = []
    for number, (scored, calibrating) in enumerate(parts):
        with tempfile.TemporaryDirectory() as work:
            found, facts = half(scored, calibrating, net, Path(work) / "run")
        raw.append({"half": number, "files": facts})
        for name in FILES:
            if name in found:
                answers[name].append(found[name])
    whole = {name: np.concatenate(found) for name, found in answers.items() if len(found) == 2}
    results = table(whole)
    by_pair = {row["files"]: row["same answer %"] for row in results}
    goals = [
        frame.Goal(f"{pair}: the same answer", limit, by_pair.get(pair), "%", at_least=True)
        for pair, limit in (
            ("ort-int8 = litert-int8", 97),
            ("ort-fp32 = ort-int8", 95),
            ("litert-fp32 = litert-int8", 95),
        )
    ]
    return run.finish(results, goals, {"halves": raw})


def table(answers: dict[str, Array]) -> list[dict[str, Any]]:
    """Return how often two files answer alike, with the 95 % Wilson interval."""
    from scipy.stats import binomtest

    rows = []
    names = list(answers)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            same = int((answers[one] == answers[other]).sum())
            ends = binomtest(same, len(answers[one])).proportion_ci(method="wilson")
            rows.append(
                {
                    "files": f"{one} = {other}",
                    "same answer %": 100.0 * same / len(answers[one]),
                    "from – to": (100 * float(ends.low), 100 * float(ends.high)),
                    "photographs": len(answers[one]),
                }
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
