"""Quantizing once for both runtimes against calibrating twice, on MobileNetV2.

Ours: one calibration on the float ONNX, the ranges carried over to the .tflite, both int8 files
written. Theirs: ONNX Runtime's `quantize_static` and ai-edge-quantizer's `calibrate` and
`quantize`, each over the very same samples. The float files are there before the clock starts,
both sides take plain minimum and maximum, and they run in turns in one process.

    make bench SUITE=once ARGS="--data ../shared/data"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.types import Artifact

LIMIT = 0.65
Part = tuple[str, Callable[[], object]]


def hub(model: str, count: int, data: Path | None, work: Path) -> tuple[Artifact, ...]:
    """Return the shared graph, the float .tflite and the samples of a network."""
    from torchopt2edge.backends.litert.backend import LiteRT
    from torchopt2edge.stages.export import export_module
    from torchopt2edge.store import Store
    from torchopt2edge.workflow import calibration
    from torchopt2edge.workflow.float_graph import file_digest, share_graph

    store = Store(work / "store")
    images = nets.images(count, data)
    exported = work / "exported"
    exported.mkdir()
    export_module(nets.warmed(model, data), (images[:4],), exported)
    file = exported / "model.onnx"
    graph = share_graph(file, file_digest(file), store)
    samples = calibration.keep_samples([images], graph, count, "calibration", store)
    return graph, LiteRT().base(graph, store), samples


def ours(graph: Artifact, base: Artifact, samples: Artifact, work: Path) -> Iterator[Part]:
    """Calibrate once, lower twice."""
    import onnx

    from torchopt2edge.backends.litert.backend import LiteRT
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.interfaces import Sources
    from torchopt2edge.quantize.calibrate import calibrate
    from torchopt2edge.samples.calibration_set import Samples
    from torchopt2edge.types import SCHEMES

    found: dict[str, Any] = {}

    def ranges() -> None:
        proto = onnx.load(graph.path / "model.onnx")
        found["ranges"] = calibrate(proto, Samples(samples.path))["minmax"]

    def lower(backend: Any, source: Artifact, name: str) -> Callable[[], object]:
        def make() -> None:
            out = work / name
            out.mkdir(exist_ok=True)
            given = Sources(graph, source, found["ranges"], samples.path)
            backend.lower(given, SCHEMES["int8"], out)

        return make

    yield "calibrate", ranges
    yield "lower, ORT", lower(Ort(isa="x86-vnni"), graph, "ort")
    yield "carry over and lower, LiteRT", lower(LiteRT(), base, "litert")


def theirs(graph: Artifact, base: Artifact, samples: Artifact, work: Path) -> Iterator[Part]:
    """Calibrate in each tool."""
    from torchopt2edge.backends.silence import quiet
    from torchopt2edge.samples.calibration_set import Samples
    from torchopt2edge.workflow.calibration import signature_in

    kept = Samples(samples.path)

    def in_ort() -> None:
        from onnxruntime.quantization import CalibrationDataReader, quantize_static

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = kept.batches(1)

            def get_next(self) -> Any:
                return next(self.left, None)

        source, target = graph.path / "model.onnx", work / "theirs.onnx"
        quantize_static(source, target, Reader(), per_channel=True)

    def in_litert() -> None:
        from ai_edge_quantizer import quantizer, recipe

        from torchopt2edge.backends.file_session import FileSession

        layout = FileSession(signature_in(base.path), dict)
        with quiet():
            tool = quantizer.Quantizer(str(base.path / "model.tflite"), recipe.static_wi8_ai8())
            given = {"serving_default": list(map(layout.prepare, kept.batches(1)))}
            calibrated = tool.calibrate(given)
            made = tool.quantize(calibrated).quantized_model
        (work / "theirs.tflite").write_bytes(bytes(made))

    yield "quantize_static, ORT", in_ort
    yield "calibrate and quantize, LiteRT", in_litert


def timed(parts: Iterator[Part]) -> dict[str, float]:
    """Run the parts in order; return the seconds of each."""
    found = {}
    for name, part in parts:
        started = time.perf_counter()
        part()
        found[name] = time.perf_counter() - started
    return found


def main() -> int:
    """Run the suite."""
    from torchopt2edge.stats import rounds as round_stats

    parser = frame.parser(__doc__)
    parser.add_argument("--data", type=Path, help="photographs; without, images of our own")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options: argparse.Namespace = parser.parse_args()
    run = frame.start("once", options)
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = hub("mobilenet_v2", options.images, options.data, work)
        for number in range(options.repeats + 1):
            pair = timed(ours(*made, work)), timed(theirs(*made, work))
            if number:  # the first imports
                rounds.append(pair)
    ratios = [sum(a.values()) / sum(b.values()) for a, b in rounds]
    middle, low, high = round_stats.median_interval(ratios)
    rows = [
        {"side": side, "part": part, "seconds": _median([pair[at][part] for pair in rounds])}
        for at, side in enumerate(("ours", "theirs"))
        for part in rounds[0][at]
    ]
    goal = frame.Goal("once for both ÷ calibrating twice", LIMIT, middle, "×", low=low, high=high)
    return run.finish(rows, [goal], {"rounds": rounds})


def _median(values: list[float]) -> float:
    import statistics

    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
