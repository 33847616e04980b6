"""What calibration costs: ours beside ONNX Runtime's own calibrators and bare inference.

MobileNetV2 at 224 × 224 with one thread, the same samples, in turns within every round; a ratio is
the median over the rounds with its 95 % bootstrap interval. A calibration's seconds are those of
the whole call: opening sessions, reading samples, searching thresholds (what one sample takes is
nearly all fixed cost, and shown); bare inference's session is open beforehand. ONNX Runtime's
Percentile keeps every activation of every sample, so that it gets few. Memory is the peak of a
fresh process per count of samples. The threshold search is one call on one histogram of 8192
bins, all of them in use.

    make bench SUITE=calibrate
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets

if TYPE_CHECKING:
    from torchopt2edge.samples.calibration_set import Samples

MODEL, IMAGES = "mobilenet_v2", 16
SEARCHED = ("percentile", "mse", "entropy")
LIMIT = {"minmax": 2.4, "all three": 3.0, "growth MB": 32.0, "search ms": 30.0}
FEW, MANY = 32, 1024
Timed = Mapping[str, Callable[[], object]]


def prepare(folder: Path) -> Path:
    """Write the shared graph of a warmed network with a free batch, and some images."""
    import numpy as np
    import torch

    from torchopt2edge.quantize.graph.prepare import prepare as shared

    raw, made = folder / "raw.onnx", folder / "model.onnx"
    batch = ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        nets.warmed(MODEL),
        (torch.randn(2, 3, nets.SIZE, nets.SIZE),),
        raw,
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
        dynamic_shapes=batch,
    )
    shared(raw, made)
    np.save(folder / "images.npy", nets.images(IMAGES).numpy())
    return made


def sampled(folder: Path, count: int) -> Samples:
    """Write that many samples: the images again and again, each time in another contrast."""
    import numpy as np
    import onnx

    from torchopt2edge.samples.calibration_set import Samples, write_samples
    from torchopt2edge.types import TensorSpec

    images = np.load(folder / "images.npy")
    name = onnx.load(folder / "model.onnx").graph.input[0].name
    spec = TensorSpec(name, (-1, *images.shape[1:]))
    contrasts = np.random.default_rng(0).uniform(0.5, 1.2, -(-count // IMAGES))
    batches = ({name: (images * c).astype(np.float32)} for c in contrasts)
    out = folder / f"samples{count}"
    out.mkdir()
    write_samples(batches, [spec], count, "calibration", out)
    return Samples(out)


def ours(model: Path, samples: Samples, observers: tuple[str, ...]) -> None:
    """Calibrate with one thread."""
    import onnx

    from torchopt2edge.quantize.calibrate import calibrate

    calibrate(onnx.load(model), samples, observers, threads=1)


def opened(model: Path) -> Any:
    """Open the graph for plain inference: one thread, all optimizations."""
    import onnx

    from torchopt2edge.quantize.graph.host_session import host_session

    return host_session(onnx.load(model), threads=1)


def bare(session: Any, samples: Samples) -> None:
    """Run the samples through a session that is open already."""
    for batch in samples.batches(1):
        session.run(None, batch)


class Reader:
    """Samples as ONNX Runtime's calibrators want them."""

    def __init__(self, samples: Samples) -> None:
        self._batches: Iterator[Any] = samples.batches(1)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, None after the last."""
        return next(self._batches, None)


def theirs(model: Path, samples: Samples, method: str) -> None:
    """Calibrate with ONNX Runtime's own calibrator, its session on one thread as well."""
    import onnxruntime as ort
    from onnxruntime.quantization import calibrate

    with tempfile.TemporaryDirectory() as folder:
        made = calibrate.create_calibrator(
            model,
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=calibrate.CalibrationMethod[method],
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        made.infer_session = ort.InferenceSession(made.augmented_model_path, options)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every step
            made.collect_data(Reader(samples))
            made.compute_data()


def in_turns(sides: Timed, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each round, after one round that is thrown away."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if number:
                taken[name].append(time.perf_counter() - began)
    return taken


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Return the median per-round ratio and its interval."""
    from torchopt2edge.stats.rounds import median_interval

    return median_interval([a / b for a, b in zip(above, below, strict=True)])


def compared(model: Path, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Time everything: ours over all samples, the hungry calibrator over few."""
    import torch

    torch.set_num_threads(1)
    many, few = (sampled(model.parent, count) for count in (options.samples, options.hungry))
    one, session = sampled(model.parent, 1), opened(model)
    sides = {
        "inference": functools.partial(bare, session, many),
        "minmax": functools.partial(ours, model, many, ("minmax",)),
        "all three": functools.partial(ours, model, many, SEARCHED),
        "all three, 1 sample": functools.partial(ours, model, one, SEARCHED),
        "ORT MinMax": functools.partial(theirs, model, many, "MinMax"),
    }
    hungry = {
        "inference": functools.partial(bare, session, few),
        "ORT Percentile": functools.partial(theirs, model, few, "Percentile"),
    }
    return {
        "many": in_turns(sides, options.rounds),
        "few": in_turns(hungry, max(1, min(options.rounds, options.hungry_rounds))),
    }


def inside(folder: Path, what: str) -> None:
    """Calibrate in this fresh process and print its peak in MB."""
    from torchopt2edge.samples.calibration_set import Samples

    (samples,) = folder.glob("samples*")
    if what == "ours":
        ours(folder / "model.onnx", Samples(samples), ("minmax", *SEARCHED))
    else:
        theirs(folder / "model.onnx", Samples(samples), what)
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_mb": int(line.split()[1]) / 1024}))


def peak(model: Path, what: str, count: int) -> float:
    """Return the peak in MB of a process that calibrates over that many samples."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("model.onnx", "images.npy"):
            (folder / name).symlink_to(model.parent / name)
        sampled(folder, count)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.calibrate", "--inside", place, "--what", what],
            cwd=frame.ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mb"])


def searches(repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of one threshold search on a histogram of 8192 bins."""
    import numpy as np
    from onnxruntime.quantization.calibrate import HistogramCollector

    from torchopt2edge.quantize.collect import SEARCHES
    from torchopt2edge.quantize.histogram import BINS, Bins

    values = np.random.default_rng(0).standard_t(4, 2_000_000).clip(-16, 16 - 1e-6)
    width = 32 / BINS
    counts = np.bincount(((values + 16) / width).astype(int), minlength=BINS)
    bins = Bins(float(values.min()), float(values.max()), width, -BINS // 2, counts, 0)
    collector = HistogramCollector("entropy", False, BINS, 255, 99.99, "int8")
    edges = (np.arange(BINS + 1) - BINS // 2) * width
    histogram = (counts, edges, values.min(), values.max())
    collect = functools.partial(collector.get_entropy_threshold, histogram, 255)
    sides: dict[str, Callable[[], object]] = {
        name: functools.partial(search, bins) for name, search in SEARCHES.items()
    }
    found = in_turns(sides, repeats) | {"ORT entropy": []}
    began = time.perf_counter()
    collect()  # seconds long: once is enough
    found["ORT entropy"].append(time.perf_counter() - began)
    return {name: [1000 * each for each in taken] for name, taken in found.items()}


def growth(model: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return peaks in MB, and what they grew by."""
    found = {f"ours {count}": peak(model, "ours", count) for count in (FEW, options.most)}
    found["growth MB"] = found[f"ours {options.most}"] - found[f"ours {FEW}"]
    ends = [peak(model, "Percentile", count) for count in (1, 1 + options.hungry)]
    found["ORT Percentile MB per image"] = (ends[1] - ends[0]) / options.hungry
    return found


def table(
    times: Mapping[str, Mapping[str, list[float]]],
    memory: Mapping[str, float],
    found: Mapping[str, list[float]],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return the lines of the table."""
    rows: list[dict[str, Any]] = []
    for group, count in (("many", options.samples), ("few", options.hungry)):
        base = times[group]["inference"]
        for name, taken in times[group].items():
            middle, low, high = ratio(taken, base)
            used = 1 if name.endswith("1 sample") else count
            each = 1000 * statistics.median(taken) / used
            ends = None if low <= 0 or used != count else (low, high)
            what = {"samples": used, "ms per sample": each}
            rows.append(
                {
                    "what": name,
                    **what,
                    "÷ inference": middle if used == count else None,
                    "from – to": ends,
                }
            )
    rows += [{"what": f"memory: {name}", "MB": value} for name, value in memory.items()]
    rows += [{"what": f"search: {n}", "ms": statistics.median(v)} for n, v in found.items()]
    return rows


def goals(
    times: Mapping[str, Mapping[str, list[float]]],
    memory: Mapping[str, float],
    found: Mapping[str, list[float]],
) -> list[frame.Goal]:
    """Hold what was found against what was promised."""
    made = []
    for name in ("minmax", "all three"):
        middle, low, high = ratio(times["many"][name], times["many"]["inference"])
        ends = {"low": low, "high": high} if low > 0 else {}
        made.append(frame.Goal(f"{name} ÷ inference", LIMIT[name], middle, "×", **ends))
    grown = memory["growth MB"]
    made.append(frame.Goal("memory from 32 samples on", LIMIT["growth MB"], grown, "MB"))
    slowest = max(statistics.median(found[name]) for name in SEARCHED)
    made.append(frame.Goal("slowest threshold search", LIMIT["search ms"], slowest, "ms"))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--samples", type=int, default=256, help="samples of most of the timings")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the timings")
    parser.add_argument("--hungry", type=int, default=16, help="samples of ORT's Percentile")
    parser.add_argument("--hungry-rounds", type=int, default=5, help="its rounds")
    parser.add_argument("--most", type=int, default=MANY, help="samples of the greater memory run")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--what", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        inside(options.inside, options.what)
        return 0
    run = frame.start("calibrate", options)
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(Path(folder))
        times = compared(model, options)
        memory = growth(model, options)
    found = searches(11)
    rows = table(times, memory, found, options)
    raw = {"seconds": times, "memory_mb": memory, "search_ms": found}
    return run.finish(rows, goals(times, memory, found), raw)


if __name__ == "__main__":
    sys.exit(main())
