"""How long ONNX → float .tflite takes: our child against the `onnx2tf` command of its environment.

Both convert the same dynamo-exported, batch-1 ONNX of the same networks, whose BatchNorm
statistics are warmed (a fresh network's outputs are ~1e-15, and any file agrees with those). Both
get a private folder, the environment's programs on PATH and the sample images that spare onnx2tf
a download. Seconds are wall time of one whole process, imports included; parity is the
signal-to-noise ratio in dB against ONNX Runtime on one random input, and the command's file is
measured by the same code as ours. The command runs between our repeats; from – to are extremes.

    make bench SUITE=convert
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets
from benchmarks.watch import Watch

if TYPE_CHECKING:
    from torchopt2edge.converter import Environment

SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"
FASTER, PARITY_DB = 5.0, 95.0
LIMIT_S = {"mobilenet_v2": 10.0, "resnet18": 14.0}
TOLD = ("onnx2tf", "tensorflow", "onnx", "onnxruntime", "ai-edge-litert", "python")


def export(name: str, path: Path) -> None:
    """Write a warmed network as a batch-1 ONNX."""
    import torch

    net = nets.warmed(name)
    image = (torch.randn(1, 3, nets.SIZE, nets.SIZE),)
    torch.onnx.export(
        net, image, path, dynamo=True, opset_version=18, external_data=False, verbose=False
    )


def by_command(env: Environment, model: Path, timeout_s: float) -> tuple[float, float, float]:
    """Convert with the `onnx2tf` command; return its seconds, parity in dB and peak in MB."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copyfile(model, work / "model.onnx")
        chance = np.random.default_rng(0)
        np.save(work / SAMPLE, chance.random((20, 128, 128, 3), dtype=np.float32))
        began = time.monotonic()
        child = subprocess.Popen(
            [env.python.parent / "onnx2tf", "-i", "model.onnx", "-o", "made", "-n"],
            cwd=work,
            env=env.variables({"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with Watch(child.pid) as watch:
                status = child.wait(timeout_s)
        finally:
            child.kill()
            child.wait()
        seconds = time.monotonic() - began
        if status:
            raise SystemExit(f"the onnx2tf command ended with status {status} on {model.name}")
        made = work / "made" / "model_float32.tflite"
        return seconds, parity(model, made), max(watch.peaks_mb.values(), default=0.0)


def parity(model: Path, file: Path) -> float:
    """Return dB of a one-image-input, one-output file in NHWC against its ONNX in NCHW."""
    import numpy as np
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    from torchopt2edge.converter.layout import best_layout

    session = onnxruntime.InferenceSession(model)
    source = session.get_inputs()[0]
    image = np.random.default_rng(1).standard_normal(source.shape).astype(np.float32)
    (reference,) = session.run(None, {source.name: image})
    interpreter = Interpreter(model_path=str(file), num_threads=2)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.transpose(0, 2, 3, 1))
    interpreter.invoke()
    made = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return float(best_layout(reference, made)[0])


def row(name: str, env: Environment, repeats: int, timeout_s: float) -> dict[str, Any]:
    """Convert one network both ways and say how it went."""
    from torchopt2edge.converter import convert

    ours: list[float] = []
    worst = float("inf")
    with tempfile.TemporaryDirectory() as folder, Watch(os.getpid()) as watch:
        model = Path(folder) / f"{name}.onnx"
        export(name, model)
        theirs, their_db, their_mb = 0.0, 0.0, 0.0
        for number in range(repeats):
            made = convert(model, Path(folder) / f"{number}" / "model.tflite", env=env)
            ours.append(made.seconds)
            worst = min(worst, parity(model, made.path))
            if number == 0:
                theirs, their_db, their_mb = by_command(env, model, timeout_s)
    return {
        "model": name,
        "seconds": ours,
        "parity_db": round(worst, 1),
        "peak_mb": watch.peaks_mb.get("converter"),
        "command_seconds": theirs,
        "command_parity_db": round(their_db, 1),
        "command_peak_mb": their_mb,
    }


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return one network's line of the table."""
    ours, theirs = found["seconds"], found["command_seconds"]
    return {
        "model": found["model"],
        "ours s": statistics.median(ours),
        "from – to s": (min(ours), max(ours)),
        "ours dB": found["parity_db"],
        "ours peak MB": found["peak_mb"],
        "onnx2tf s": theirs,
        "onnx2tf dB": found["command_parity_db"],
        "onnx2tf peak MB": found["command_peak_mb"],
        "ratio": theirs / statistics.median(ours),
    }


def goals(found: Mapping[str, Any]) -> list[frame.Goal]:
    """Hold a conversion against what was promised: times for two networks, parity for all."""
    name, ours, theirs = found["model"], found["seconds"], found["command_seconds"]
    middle = statistics.median(ours)
    made = [frame.Goal(f"{name}: parity", PARITY_DB, found["parity_db"], "dB", at_least=True)]
    if name not in LIMIT_S:
        return made
    many = len(ours) > 1
    ends = {"low": min(ours), "high": max(ours)} if many else {}
    ratios = {"low": theirs / max(ours), "high": theirs / min(ours)} if many else {}
    what = f"{name}: faster than the onnx2tf command"
    made.append(frame.Goal(what, FASTER, theirs / middle, "×", at_least=True, **ratios))
    made.append(frame.Goal(f"{name}: seconds", LIMIT_S[name], middle, "s", **ends))
    return made


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(LIMIT_S), help="names of the zoo")
    parser.add_argument("--repeats", type=int, default=3, help="conversions of ours per network")
    parser.add_argument("--python", help="an interpreter with onnx2tf instead of the sealed one")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the command")
    options = parser.parse_args()
    from torchopt2edge.converter import find, versions

    run = frame.start("convert", options)
    env = find(options.python)
    packages = versions(env)
    found = [row(name, env, max(1, options.repeats), options.timeout) for name in options.models]
    told = {f"converter {name}": packages[name] for name in TOLD if name in packages}
    every = [goal for one in found for goal in goals(one)]
    return run.finish([table(one) for one in found], every, {"conversions": found}, told)


if __name__ == "__main__":
    sys.exit(main())
