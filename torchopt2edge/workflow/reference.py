"""What the model itself answers: the reference of every check."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.interfaces import Backend
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.store import Store, key_of
from torchopt2edge.types import Artifact, Facts
from torchopt2edge.workflow.calibration import signature_in

Array = np.ndarray[Any, Any]

REFERENCE_SAMPLES = 32


def reference_outputs(graph: Artifact, samples: Samples, digest: str, store: Store) -> Artifact:
    """Run the reference over the first samples: PyTorch, or the ONNX with no rewriting.

    The artifact holds ``inputs.npz`` and ``outputs.npz``, in source names and layout.

    Raises:
        VerifyError: the model itself outputs NaN or infinity.
    """
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.backends.torch_cpu import TorchCpu

    program = graph.path / "model.pt2"
    backend: Backend = TorchCpu() if program.is_file() else Ort(optimize=False)
    file = program if program.is_file() else graph.path / "model.onnx"

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
    _save_arrays(out / "inputs.npz", inputs)
    _save_arrays(out / "outputs.npz", outputs)
    return {"count": len(batches), **backend.receipt()}


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
