"""int8 by processor: how near each file of ONNX Runtime stays to fp32, and how fast it is.

Every network is lowered once for each kind of target (`quantize.isa`), from the same ranges, and
all files are scored on images that calibrated nothing, then timed in turns:

    fp32       the float file
    U8S8       made for x86 with VNNI; its sums saturate on x86 without
    S8S8       made for arm64
    portable   exact everywhere: uint8 weights where U8S8 could saturate (made for x86 without VNNI)
    litert     the .tflite of the same ranges

``alike`` is the share of images that get the answer of fp32, of LiteRT's int8. ResNet-20 and -56
are scored on CIFAR-10's test images, the others on photographs; of the photograph networks only
SqueezeNet has trained weights. Without a data folder the images are synthetic and all weights
random: the times count, the answers less. The records of the other kinds of processor are listed
at the end.

    make bench SUITE=isa ARGS="../shared/data"
    python -m benchmarks.isa ../shared/data --hide vnni     # as if this processor had no VNNI
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import frame, nets, without_vnni
from benchmarks.cifar import PUBLISHED
from torchopt2edge.devices.local import Local
from torchopt2edge.quantize import isa

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from torchopt2edge.interfaces import TimedSession

    Array = np.ndarray[Any, Any]

TARGETS = {"U8S8": isa.X86_VNNI, "S8S8": isa.ARM64, "portable": isa.PORTABLE}
ZOO = ("squeezenet1_1", "mobilenet_v2", "resnet18", "shufflenet_v2_x1_0", "efficientnet_b0")
PRETRAINED = ("resnet20", "resnet56", "squeezenet1_1")
CALIBRATING = 128
_BATCH = 50
ALIKE = {"resnet20": 99.0, "resnet56": 99.0, "squeezenet1_1": 95.0, "mobilenet_v2": 97.0}


@dataclass(frozen=True)
class Case:
    """A network, an example for its forward, the images that calibrate it and that score it."""

    net: nn.Module
    example: Tensor
    calibrating: Array
    scored: Array


def case(name: str, options: argparse.Namespace) -> Case:
    """Return a network of the zoo with photographs, or one of CIFAR-10's with its images."""
    if name not in PUBLISHED:
        images = nets.images(CALIBRATING + options.images, options.data)
        net = nets.warmed(name, options.data)
        return Case(net, images[:1], images[:CALIBRATING].numpy(), images[CALIBRATING:].numpy())
    import torch

    from torchopt2edge.data import loader
    from torchopt2edge.data.cifar10_npz import Cifar10Npz
    from torchopt2edge.models.artifact import load_checkpoint
    from torchopt2edge.models.cifar_resnet import cifar_resnet

    net = cifar_resnet(int(name.removeprefix("resnet"))).eval()
    load_checkpoint(net, options.data / f"{name}_cifar10.pth")
    data = Cifar10Npz(
        test=str(options.data / "cifar10_test.npz"),
        train=str(options.data / "cifar10_train10k.npz"),
        calibration_count=CALIBRATING,
    )
    calibrating, scored = (
        torch.cat([batch for batch, _ in loader(data.split(split), batch_size=64)])
        for split in ("calibration", "test")
    )
    return Case(net, scored[:1], calibrating.numpy(), scored[: options.test].numpy())


def files(made: Case, work: Path) -> Iterator[tuple[str, Path]]:
    """Lower the network for every target; yield each file with its name in the table."""
    import torchopt2edge as t2e
    from torchopt2edge.backends.litert.backend import LiteRT
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.store import Store

    store = Store(work / "store")
    for name, target in TARGETS.items():
        first = name == "U8S8"
        result = t2e.quantize(
            made.net,
            (made.example,),
            [made.calibrating],
            calibration_samples=len(made.calibrating),
            backends=(Ort(isa=target), LiteRT()) if first else (Ort(isa=target),),
            schemes=("fp32", "int8") if first else ("int8",),
            baseline=False,
            store=store,
            out=work / name,
        )
        for row in result.rows:
            suffix = ".onnx" if row.backend == "ort" else ".tflite"
            label = row.candidate if row.scheme == "fp32" or row.backend != "ort" else name
            yield label, (work / name / "artifacts" / row.candidate).with_suffix(suffix)


def outputs(file: Path, images: Array) -> Array:
    """Run a file over the images in its runtime, on this machine."""
    import numpy as np

    from torchopt2edge.backends.litert.backend import LiteRT
    from torchopt2edge.backends.ort.backend import Ort

    backend = LiteRT() if file.suffix == ".tflite" else Ort()
    session: TimedSession = backend.open(file, backend.read_signature(file), 1)
    name, output = session.input_names[0], session.output_names[0]
    step = 1 if file.suffix == ".tflite" else _BATCH
    if file.suffix == ".tflite":
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # it takes NHWC
    parts = [session({name: images[at : at + step]})[output] for at in range(0, len(images), step)]
    return np.concatenate(parts)


def sqnr_db(want: Array, got: Array) -> float:
    """Return the pooled signal-to-quantization-noise ratio."""
    import numpy as np

    noise = float(np.square(want - got, dtype=np.float64).sum())
    signal = float(np.square(want, dtype=np.float64).sum())
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def measured(named: Mapping[str, Path], options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Time all files in turns; return their rows by the name in the table."""
    import torchopt2edge as t2e
    from torchopt2edge.workflow.float_graph import file_digest

    folder = work / "named"
    folder.mkdir()
    for name, file in named.items():
        (folder / f"{name}{file.suffix}").symlink_to(file.resolve())
    result = t2e.bench(
        sorted(folder.iterdir()),
        timing=options.protocol,
        device=(without_vnni.HiddenLocal if without_vnni.active() else Local)(threads=1),
        out=work / "timed",
    )
    by_digest = {row.facts.get("digest"): row for row in result.rows}
    return {name: by_digest[file_digest(file)] for name, file in named.items()}


def one(name: str, options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return the lines of one network."""
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.stats.rounds import paired_ratio

    made = case(name, options)
    named = dict(files(made, work))
    answers = {label: outputs(file, made.scored) for label, file in named.items()}
    rows = measured(named, options, work)
    want, other = answers["ort-fp32"], answers["litert-int8"].argmax(1)
    lines = []
    for label, file in named.items():
        own = "litert-fp32" if label.startswith("litert") else "ort-fp32"
        row, float_row = rows[label], rows[own]
        ratio = paired_ratio(float_row.latency_ns, row.latency_ns) if row.latency_ns else None
        facts = Ort().read_facts(file) if file.suffix == ".onnx" else {}
        lines.append(
            {
                "network": name,
                "file": label,
                "saturating layers": facts.get("saturating_layers"),
                "SQNR dB": None if label == "ort-fp32" else sqnr_db(want, answers[label]),
                "as fp32 %": 100.0 * float((answers[label].argmax(1) == want.argmax(1)).mean()),
                "as LiteRT int8 %": 100.0 * float((answers[label].argmax(1) == other).mean()),
                "ms": row.metrics.get("latency_ms"),
                "× fp32": None if ratio is None else ratio[0],
                "from – to": None if ratio is None else ratio[1:],
                "MB": file.stat().st_size / 1e6,
                "err": row.err,
            }
        )
    return lines


def goals(lines: list[dict[str, Any]], kind: str) -> list[frame.Goal]:
    """Hold the file that is right on this processor against LiteRT's and against fp32."""
    right = "U8S8" if kind == isa.X86_VNNI else "portable"
    made = []
    for line in lines:
        name = line["network"]
        if line["file"] != right or name not in ALIKE:
            continue
        label = f"{name}, {right}: answers as LiteRT's int8"
        found = line["as LiteRT int8 %"]
        made.append(frame.Goal(label, ALIKE[name], found, "%", at_least=True))
        if name == "mobilenet_v2":
            low, high = line["from – to"] or (None, None)
            label = f"{name}, {right}: × fp32"
            made.append(frame.Goal(label, 1.35, line["× fp32"], "", True, low, high))
    return made


def recorded() -> list[str]:
    """List the kinds of processor that have a record of this suite."""
    kinds = []
    for file in sorted(frame.RECORDS.glob("*/isa*.json")):
        machine = json.loads(file.read_text())["machine"]
        kinds.append(f"{isa.kind_of(machine)}: {file.parent.name}/{file.name}")
    return kinds


def main() -> int:
    """Run the suite."""
    parser = frame.parser(__doc__)
    parser.add_argument(
        "data", type=Path, nargs="?", help="the folder of weights, photographs and .npz files"
    )
    parser.add_argument("--networks", nargs="+", help="by default all, without data the zoo's")
    parser.add_argument("--images", type=int, default=300, help="photographs to score")
    parser.add_argument("--test", type=int, default=10_000, help="CIFAR-10 test images to score")
    parser.add_argument("--protocol", default="quick", help="smoke, quick or standard")
    parser.add_argument("--hide", choices=("vnni", "avx512"), help="x86 only: see without_vnni.py")
    options = parser.parse_args()
    options.networks = options.networks or [*(PUBLISHED if options.data else ()), *ZOO]
    if options.hide and not without_vnni.active():
        return _again(options.hide == "avx512")
    run = frame.start("isa", options)
    kind = isa.kind_of(run.machine)
    if run.out is None and kind != isa.X86_VNNI:
        folder = frame.default_file("isa", run.machine).parent
        run = replace(run, out=folder / f"isa-{kind}.json")
    lines: list[dict[str, Any]] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as work:
            lines += one(name, options, Path(work))
    code = run.finish(lines, goals(lines, str(kind)), {"hidden": os.environ.get("HIDE")})
    frame.stdout().print(*recorded(), sep="\n", markup=False)
    return code


def _again(avx512: bool) -> int:
    """Start this suite anew with its instructions hidden."""
    made = without_vnni.overlay(without_vnni.cached(), avx512=avx512)
    command = made.command([sys.executable, "-m", "benchmarks.isa", *sys.argv[1:]])
    return subprocess.run(command, env=made.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
