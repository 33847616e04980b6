"""What the model itself answers: the reference of every check."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.interfaces import Backend
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.store import Store, key_of
from torchopt2edge.types import Artifact, Facts
from torchopt2edge.workflow.calibration import signature_in
from torchopt2edge.workflow.float_graph import SOURCE

if TYPE_CHECKING:
    from torchopt2edge.stats.noise import Noise

Array = np.ndarray[Any, Any]

REFERENCE_SAMPLES = 32
NOISE_SAMPLES = 4


def reference_outputs(graph: Artifact, samples: Samples, digest: str, store: Store) -> Artifact:
    """Run the reference over the first samples: PyTorch, or the ONNX file as it came.

    The artifact holds ``inputs.npz`` and ``outputs.npz``, in source names and layout, and in
    ``noise.json`` how far float32 itself moves each output (`quantize.graph.float_noise`).

    Raises:
        VerifyError: the model itself outputs NaN or infinity.
    """
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.backends.torch_cpu import TorchCpu

    program, source = graph.path / "model.pt2", graph.path / SOURCE
    backend: Backend = TorchCpu() if program.is_file() else Ort(optimize=False)
    given = source if source.is_file() else graph.path / "model.onnx"
    file = program if program.is_file() else given

    inputs = {"graph": graph.digest, "samples": digest}
    key = key_of([_write_reference, backend.open, backend.receipt], inputs)
    return store.make(key, "reference", partial(_write_reference, backend, file, samples))[0]


def _write_reference(backend: Backend, file: Path, samples: Samples, out: Path) -> Facts:
    from torchopt2edge.evaluation.parity import check_finite

    session = backend.open(file, signature_in(file.parent), _threads(backend))
    batches = list(samples.batches(1, REFERENCE_SAMPLES))
    results = [session(batch) for batch in batches]
    inputs = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    outputs = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    check_finite(outputs)
    noise = _noise(file.parent, samples)
    (out / "noise.json").write_text(json.dumps(noise.rms))
    _save_arrays(out / "inputs.npz", inputs)
    _save_arrays(out / "outputs.npz", outputs)
    return {"count": len(batches), **backend.receipt()}


def _noise(folder: Path, samples: Samples) -> Noise:
    """Measure how far float32 moves the outputs of the model; of no ONNX graph nothing is known."""
    import onnx

    from torchopt2edge.quantize.graph.float_noise import float_noise
    from torchopt2edge.stats.noise import Noise

    source = next((f for f in (folder / SOURCE, folder / "model.onnx") if f.is_file()), None)
    if source is None:
        return Noise()
    return float_noise(onnx.load(source), list(samples.feeds(1, NOISE_SAMPLES)))


def load_noise(folder: Path) -> Noise:
    """Read what `reference_outputs` found of float32's own noise."""
    from torchopt2edge.stats.noise import Noise

    return Noise(json.loads((folder / "noise.json").read_text()))


def _threads(backend: Backend) -> int:
    """Return how many threads to run with; PyTorch's number is the whole process's, and stays."""
    if backend.runtime_module == "torch":
        import torch

        return torch.get_num_threads()
    return os.cpu_count() or 1


def _save_arrays(file: Path, arrays: Mapping[str, Array]) -> None:
    """Save arrays by position: a tensor may have any name."""
    listed = {f"a{index}": array for index, array in enumerate(arrays.values())}
    np.savez(file, names=np.array(list(arrays)), **listed)  # type: ignore[arg-type]


def load_arrays(file: Path) -> dict[str, Array]:
    """Read what `reference_outputs` keeps."""
    with np.load(file, allow_pickle=False) as kept:
        return {str(name): kept[f"a{index}"] for index, name in enumerate(kept["names"])}
