"""Hold an exported file against the net that it came from, on real inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph.host_session import ort_errors
from torchopt2edge.stats.noise import Noise
from torchopt2edge.stats.sqnr import LIMIT_DB, sqnr_db
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FLOOR_DB = 60.0
_FLAT = 1e-6
_MIN_EQUAL = 0.999
_NOISE_SAMPLES = 4


def named_outputs(value: object) -> dict[str, Tensor]:
    """Name a net's outputs: a dict's keys, a dataclass's fields, ``output_0``, ``output_1`` ….

    A single tensor is ``output``; names of nested structures are joined; what is None is left out.

    Raises:
        ExportError: an output is something else than a tensor.
    """
    if isinstance(value, Tensor):
        return {"output": value}
    named = dict(_flat("", value))
    wrong = [name for name, item in named.items() if not isinstance(item, Tensor)]
    detections = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    if wrong or not named or detections:
        kind = type(value).__name__
        raise ExportError(
            f"the net returns {kind}, which holds more than tensors"
            if not detections
            else "the net returns a list with one dict per image, as torchvision's detectors do",
            hint="return a tensor, or a tuple or dict of tensors with the batch as first axis"
            if not detections
            else "export what runs before the boxes are filtered: a module that returns "
            "net.head(list(net.backbone(image).values())), and filter outside",
        )
    return {name: item for name, item in named.items() if isinstance(item, Tensor)}


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Walk a nested structure; the names of what is inside are joined."""
    if is_dataclass(value) and not isinstance(value, type | Mapping):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}_{key}" if name else str(key), item)
    elif isinstance(value, tuple | list):
        for at, item in enumerate(value):
            yield from _flat(f"{name or 'output'}_{at}", item)
    elif value is not None:
        yield name, value


def check_parity(
    net: nn.Module, inputs: dict[str, Tensor], file: Path, batches: tuple[int, ...]
) -> Facts:
    """Run ``net`` and ``file`` on ``inputs`` in each batch size and return how close they are.

    Facts: ``parity_db`` (the worst signal-to-noise ratio of any output at any batch size),
    ``parity_agreement`` (per cent of samples with the same arg-max, for outputs [N, classes]),
    ``parity_batches``, ``parity_samples``, and ``parity_warning`` when the outputs hardly
    depend on the inputs: freshly initialised nets do that, and pass whatever the file computes.

    Raises:
        ExportError: not a number, other shapes, or below 60 dB.
    """
    session = _session(file)
    worst, agreement, flat = LIMIT_DB, 100.0, set[str]()
    noise = functools.cache(lambda: _noise(file, inputs))
    for batch in batches:
        wanted, got = _reference(net, inputs, batch), _run(session, inputs, batch)
        for name, reference in wanted.items():
            value = got[name]
            _refuse_nan(name, reference, "the net itself")
            _refuse_nan(name, value, "the exported file")
            if value.shape != reference.shape:
                raise ExportError(f"{name} is {value.shape} in the file, not {reference.shape}")
            worst = min(worst, _ratio(name, reference, value, noise))
            if value.ndim == 2 and value.shape[1] > 1:
                same = (value.argmax(1) == reference.argmax(1)).mean()
                agreement = min(agreement, 100 * float(same))
            if _is_flat(reference):
                flat.add(name)
    if worst < FLOOR_DB:
        raise ExportError(
            f"the exported file agrees with the net to {worst:.1f} dB only, not {FLOOR_DB:.0f}",
            artifact=file,
            hint="look for an operation that depends on the batch, on training or on chance",
        )
    facts: Facts = {
        "parity_db": round(worst, 1),
        "parity_agreement": round(agreement, 2),
        "parity_batches": list(batches),
        "parity_samples": min(len(value) for value in inputs.values()),
    }
    if flat:
        facts["parity_warning"] = (
            f"{', '.join(sorted(flat))} hardly depends on the input, so parity proves nothing: "
            "is the net trained?"
        )
    return facts


def _ratio(name: str, reference: Array, value: Array, noise: Callable[[], Noise]) -> float:
    """Return how close one output is, in dB; the floor where it differs by float32's noise alone.

    Integers are close when all but near ties are equal.
    """
    if reference.dtype.kind != "f":
        equal = float((reference == value).mean()) if reference.size else 1.0
        return LIMIT_DB if equal >= _MIN_EQUAL else sqnr_db(reference, value)
    ratio = sqnr_db(reference, value)
    if ratio >= FLOOR_DB:
        return ratio
    return FLOOR_DB if noise().allows(name, value - reference) else ratio


def _noise(file: Path, inputs: dict[str, Tensor]) -> Noise:
    """Measure how far float32 moves the file's outputs on a few samples."""
    import onnx

    from torchopt2edge.quantize.graph.float_noise import float_noise

    count = min(_NOISE_SAMPLES, *(len(value) for value in inputs.values()))
    batches = [
        {name: value[at : at + 1].numpy() for name, value in inputs.items()} for at in range(count)
    ]
    return float_noise(onnx.load(file), batches)


def _refuse_nan(name: str, value: Array, who: str) -> None:
    import numpy as np

    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ExportError(
            f"{who} gives values in {name} that are not finite numbers",
            hint="check the weights and the preprocessing",
        )


def _is_flat(value: Array) -> bool:
    """Tell whether an output hardly varies from sample to sample."""
    if len(value) < 2 or value.dtype.kind != "f":
        return False
    return bool(value.std(axis=0).max() <= _FLAT * max(float(abs(value).max()), _FLAT))


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except ort_errors() as error:
        raise ExportError(
            f"ONNX Runtime cannot load the exported file: {str(error).splitlines()[0]}",
            artifact=file,
            hint="write that part of the model with other operators",
        ) from error


def _parts(inputs: dict[str, Tensor], batch: int) -> Iterator[dict[str, Tensor]]:
    """Cut the inputs into whole batches; what is left over is not run."""
    count = min(len(value) for value in inputs.values())
    for start in range(0, count - batch + 1, batch):
        yield {name: value[start : start + batch] for name, value in inputs.items()}


def _reference(net: nn.Module, inputs: dict[str, Tensor], batch: int) -> dict[str, Array]:
    with torch.no_grad():
        parts = [named_outputs(net(*part.values())) for part in _parts(inputs, batch)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _run(session: Any, inputs: dict[str, Tensor], batch: int) -> dict[str, Array]:
    import numpy as np

    names = [output.name for output in session.get_outputs()]
    parts = [
        session.run(None, {name: value.numpy() for name, value in part.items()})
        for part in _parts(inputs, batch)
    ]
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}
