"""The keys of a run, as a process that is asked again and again after its sources were edited.

Run by `test_keys` on a copy of the package. Each line on stdin is JSON: the edits to make, as
``{"texts": {path: text}}``. The answer is one line: the keys by what they are of. The files are
put back afterwards. The functions are those of a run; only the store is another: it makes nothing,
and the digest of an artifact is its key, as if every edit changed what is made.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torchopt2edge
from torchopt2edge.backends.litert.backend import LiteRT
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.torch_cpu import TorchCpu
from torchopt2edge.converter.environment import MARKER, folder_for, requirements_for
from torchopt2edge.data.digits import Digits
from torchopt2edge.devices import Local
from torchopt2edge.identity import values
from torchopt2edge.models.cifar_resnet import cifar_resnet
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.stages.distill import Distill
from torchopt2edge.stages.export import Export
from torchopt2edge.stages.prune import Prune
from torchopt2edge.stages.qat import Qat
from torchopt2edge.stages.sparsify import Sparsify
from torchopt2edge.stages.train import Train
from torchopt2edge.store import key_of
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.types import Artifact, Manifest, Ranges
from torchopt2edge.workflow import calibration, check, lowering
from torchopt2edge.workflow.float_graph import share_graph
from torchopt2edge.workflow.inputs import Labelled
from torchopt2edge.workflow.progress import LogProgress
from torchopt2edge.workflow.reference import reference_outputs
from torchopt2edge.workflow.run_stages import run_stages

PACKAGE = Path(torchopt2edge.__file__).parent
SCRATCH = Path(sys.argv[1])
DATA = Digits()
RESNET = partial(cifar_resnet, depth=8)
STAGES = {
    "teacher": Train(model=RESNET, data=DATA),
    "student": Distill(student=RESNET, data=DATA),
    "pruned": Prune(source="student", data=DATA, macs=0.5),
    "sparse": Sparsify(source="student", data=DATA),
    "qat": Qat(source="student", data=DATA),
    "export": Export(source="pruned", data=DATA),
}
FACTS: dict[str, dict[str, Any]] = {
    "tflite": {"file": "model.tflite"},
    "lowered": {"file": "model"},
    "parity": {"sqnr_db": 1.0},
    "score": {"metric": "top1", "metrics": {}, "facts": {}},
}


class NothingMade:
    """A store that makes nothing and notes the key of what was asked for under ``label``."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.label = ""

    def make(self, key: str, kind: str, maker: object) -> tuple[Artifact, bool]:
        """Return an artifact whose digest is its key."""
        self.keys[f"{kind} {self.label}".strip()] = key
        folder = SCRATCH / key
        folder.mkdir(exist_ok=True)
        (folder / "signature.json").write_text('{"inputs": [], "outputs": []}')
        ranges = Ranges({}, key, Manifest("calibration", ()))
        (folder / "ranges.json").write_text(json.dumps(ranges.to_json()))
        return Artifact(kind, folder, key, FACTS.get(kind, {})), True


def keys() -> dict[str, str]:
    """Return the keys of stages, and of a comparison of a file."""
    store: Any = NothingMade()
    made = run_stages(STAGES, store, LogProgress())
    store.keys = {f"stage {name}": one.artifact.digest for name, one in made.items()}
    (SCRATCH / "user").mkdir(exist_ok=True)
    file = SCRATCH / "user" / "model.onnx"
    graph = share_graph(file, "digest of a file", store)
    samples = Artifact("samples", SCRATCH / "user", "digest of samples")
    decided = calibration.decide(graph, samples, store, Quantize())
    store.label = "mixed"
    calibration.decide(graph, samples, store, Quantize(max_drop=1.0))
    store.label = ""
    probe = reference_outputs(graph, Samples(samples.path), samples.digest, store)
    evaluate = Labelled([], key_of(DATA, {}))
    for backend in (Ort("x86"), LiteRT(), TorchCpu()):
        store.label = ""
        base: Future[Artifact] = Future()
        base.set_result(backend.base(graph, store))
        for scheme in backend.schemes:
            store.label = f"{backend.name}-{scheme}"
            lowered = lowering.lower_all(
                graph, "", [(backend, base)], [scheme], decided, store, LogProgress()
            )
            for found in lowered:
                examined(found, probe, evaluate, store, "python")
                if scheme == "int8":
                    store.label = f"{store.label} native"
                    examined(found, probe, evaluate, store, "native")
    return dict(store.keys)


def examined(found: Any, probe: Artifact, evaluate: Labelled, store: Any, runner: str) -> None:
    """Ask for the parity and the score of a candidate on this machine."""
    device = Local(runner=runner)
    settings: Any = SimpleNamespace(
        device=device, machine=device.facts(), out=SCRATCH, store=store, task=Classification()
    )
    check.examine(found, probe, evaluate, settings)


def pretend_converter() -> None:
    """Leave what a sealed environment is known by: nothing is converted here."""
    minor = ".".join(map(str, sys.version_info[:2]))
    folder = folder_for(requirements_for(minor), minor)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / MARKER).write_text(json.dumps({"folder": str(folder)}))


def main() -> None:
    """Answer until stdin ends."""
    pretend_converter()
    for line in sys.stdin:
        texts = {PACKAGE / path: text for path, text in json.loads(line)["texts"].items()}
        before = {path: path.read_text() for path in texts}
        try:
            for path, text in texts.items():
                path.write_text(text)
            values._ours.cache_clear()
            print(json.dumps(keys()), flush=True)
        finally:
            for path, text in before.items():
                path.write_text(text)


if __name__ == "__main__":
    main()
