"""Carry the ranges of the float ONNX over to the tensors of the float .tflite.

Both files compute the same tensors in another layout, under other names. They are matched by
their values on a few probe inputs:

T1. Two tensors match when, on every probe, their sorted values agree: a change of layout
    permutes the values, and a range does not see a permutation.
T2. A tensor that is constant on a calibration sample tells nothing and is never matched.
T3. When several ONNX tensors match and their ranges over the calibration set differ, they only
    looked equal on the probes: the tensor is not matched.
T4. The output of a PAD or PADV2 has its input's range joined with the padded value, unless that
    value lies below the range and only pooling by maximum reads it: there it can never win, and
    the -inf that the converter pads with would leave no steps for the values (onnx2tf#444).
    A tensor that only one clamp reads has the clamp's range: what lies outside is cut off anyway.
T5. What is left is calibrated in the .tflite itself, by minimum and maximum over the very same
    samples, and listed.

The probes are calibration samples and one input beyond them: two tensors that agree on all that
is usual (a ReLU6 that never clips, and what it is given) part there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.backends.litert.flatbuffer import (
    TfliteGraph,
    activation_values,
    extremes,
    read_graph,
)
from torchopt2edge.quantize.graph.activations import activations, with_outputs
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.samples.calibration_set import Samples, as_fed
from torchopt2edge.types import Facts, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]
PROBES = 3
RTOL = 1e-3
BEYOND = -3.0
# There activations grow, and a sigmoid shows the last digits of what it is given (1.5 % of its
# range in EfficientNet-B0): only what departs plainly counts.
RTOL_BEYOND = 0.05
PADS = ("PAD", "PADV2")
CLAMPS = ("RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1")
_NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class Transfer:
    """Ranges by .tflite tensor, which ONNX tensors each equals, and what was left over.

    ``matched`` maps a .tflite tensor to its ONNX twins: one tensor under several names, such as
    that before and that behind a Flatten. ``derived`` are those of rule T4; ``calibrated``
    those of rule T5.
    """

    bounds: dict[str, tuple[float, float]]
    matched: dict[str, tuple[str, ...]]
    derived: tuple[str, ...]
    calibrated: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """How much of the .tflite runs on the ranges of the ONNX."""
        share = 100.0 * (len(self.matched) + len(self.derived)) / max(1, len(self.bounds))
        return {"ranges_matched": round(share, 1), "ranges_calibrated": list(self.calibrated)}


def transfer(
    proto: ModelProto,
    tflite_file: Path,
    ranges: Ranges,
    samples: Samples,
    prepare: Callable[[Mapping[str, Array]], Mapping[str, Array]],
) -> Transfer:
    """Return a range for every float activation of the .tflite.

    ``prepare`` brings one sample (batch 1, source layout) to the .tflite's names and layout.
    """
    graph = read_graph(tflite_file)

    def run(inputs: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
        return activation_values(tflite_file, graph, map(prepare, inputs))

    chosen = probes(samples)
    usual = len(chosen) - 1
    matched = match(
        onnx_values(proto, [as_fed(one, samples.whole) for one in chosen]),
        run(chosen),
        ranges,
        usual,
    )
    bounds = {name: ranges.bounds[twins[0]] for name, twins in matched.items()}
    derived = [*_clamp(graph, bounds), *_pad(graph, bounds)]
    rest = set(graph.activations.values()) - set(bounds)
    if rest:
        found = extremes(run(samples.batches(1)), rest)
        padding = {op.outputs[0] for op in graph.ops if op.kind in PADS}
        bounds.update({name: found[name] for name in rest - padding})
        _pad(graph, bounds)  # of what was calibrated just now
        bounds.update({name: found[name] for name in rest - set(bounds)})
    return Transfer(bounds, matched, tuple(derived), tuple(sorted(rest)))


def probes(samples: Samples) -> list[dict[str, Array]]:
    """Return up to ``PROBES`` calibration samples and one input beyond all of them.

    The last is a float sample turned over and stretched; what is not float stays as it is.
    """
    chosen = list(samples.batches(1, PROBES))
    beyond = {
        name: array * np.float32(BEYOND) if array.dtype == np.float32 else array
        for name, array in chosen[-1].items()
    }
    return [*chosen, beyond]


@dataclass(frozen=True, eq=False)
class _Values:
    """One tensor's values on one probe, with what rules most other tensors out at no cost."""

    array: Array
    marks: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        flat = self.array.ravel()
        spread = float(np.sqrt(np.mean(np.square(flat, dtype=np.float64)))) if flat.size else 0.0
        found = (float(flat.min()), float(flat.max()), spread) if flat.size else (0.0, 0.0, 0.0)
        object.__setattr__(self, "marks", found)

    @property
    def tells(self) -> bool:
        """T2; a NaN tells nothing either."""
        low, high, spread = self.marks
        return low < high and bool(np.isfinite(spread))

    @cached_property
    def ordered(self) -> Array:
        """The values in ascending order: what no change of layout alters."""
        return np.sort(self.array, axis=None)


def match(
    sources: Iterable[Mapping[str, Array]],
    targets: Iterable[Mapping[str, Array]],
    ranges: Ranges,
    usual: int | None = None,
) -> dict[str, tuple[str, ...]]:
    """Map target tensors to source tensors by rules T1 to T3, over probes walked in step.

    Only the first ``usual`` probes are calibration samples (all, unless given): on one beyond
    them a tensor may well be constant, and then says nothing for or against a match.
    """
    pairs: dict[str, set[str]] | None = None
    for at, (source, target) in enumerate(zip(sources, targets, strict=True)):
        theirs = {name: _Values(value) for name, value in source.items() if name in ranges.bounds}
        ours = {name: _Values(value) for name, value in target.items()}
        if usual is not None and at >= usual:
            pairs = _keep(pairs or {}, ours, theirs, RTOL_BEYOND)
        elif pairs is None:
            pairs = _first(ours, theirs)
        else:
            open_pairs = {name: twins for name, twins in pairs.items() if ours[name].tells}
            pairs = _keep(open_pairs, ours, theirs, RTOL)
    return {
        name: tuple(sorted(twins))
        for name, twins in (pairs or {}).items()
        if twins and _agree([ranges.bounds[twin] for twin in twins])
    }


def _first(ours: Mapping[str, _Values], theirs: Mapping[str, _Values]) -> dict[str, set[str]]:
    """Pair every target that tells something with the sources that equal it."""
    by_size = defaultdict(list)
    for twin, other in theirs.items():
        by_size[other.array.size].append(twin)
    return {
        name: {twin for twin in by_size[value.array.size] if _same(value, theirs[twin])}
        for name, value in ours.items()
        if value.tells
    }


def _keep(
    pairs: Mapping[str, set[str]],
    ours: Mapping[str, _Values],
    theirs: Mapping[str, _Values],
    rtol: float,
) -> dict[str, set[str]]:
    """Keep the pairs that agree on this probe too; a NaN on either side is no evidence."""
    return {
        name: {
            twin
            for twin in twins
            if not np.isfinite(ours[name].marks[2] + theirs[twin].marks[2])
            or _same(ours[name], theirs[twin], rtol)
        }
        for name, twins in pairs.items()
    }


def _same(a: _Values, b: _Values, rtol: float = RTOL) -> bool:
    """T1, cheapest test first; the usual change of layout is tried before sorting."""
    if a.array.size != b.array.size:
        return False
    slack = rtol * max(abs(a.marks[0]), abs(a.marks[1]))
    if any(abs(x - y) > slack for x, y in zip(a.marks, b.marks, strict=True)):
        return False
    turned = b.array.transpose(_NHWC) if b.array.ndim == 4 else b.array
    if a.array.shape == turned.shape and np.max(np.abs(a.array - turned)) <= slack:
        return True
    return bool(np.max(np.abs(a.ordered - b.ordered)) <= slack)


def _agree(bounds: list[tuple[float, float]]) -> bool:
    """T3: the ranges are the same up to rounding."""
    lows, highs = np.array(bounds).T
    slack = RTOL * max(np.abs(lows).max(), np.abs(highs).max())
    return bool(np.ptp(lows) <= slack and np.ptp(highs) <= slack)


def _clamp(graph: TfliteGraph, bounds: dict[str, tuple[float, float]]) -> list[str]:
    """T4, of what a clamp is given."""
    done = []
    for op in graph.ops:
        if op.kind not in CLAMPS or op.inputs[0] in bounds or op.outputs[0] not in bounds:
            continue
        (given,) = op.given
        readers = sum(given in other.given for other in graph.ops)
        if readers == 1 and given not in graph.outputs:
            bounds[op.inputs[0]] = bounds[op.outputs[0]]
            done.append(op.inputs[0])
    return done


def _pad(graph: TfliteGraph, bounds: dict[str, tuple[float, float]]) -> list[str]:
    """T4, of what is padded."""
    done = []
    for op in graph.ops:
        given, made = op.inputs[:1], op.outputs[0]
        if op.kind not in PADS or given[0] not in bounds or made in bounds:
            continue
        low, high = bounds[given[0]]
        constant = op.given[2] if op.kind == "PADV2" else None
        held = None if constant is None else constant.data
        value = 0.0 if held is None else float(held.ravel()[0])
        readers = {other.kind for other in graph.ops if made in other.inputs}
        if not (value < low and readers == {"MAX_POOL_2D"}):
            low, high = min(low, value), max(high, value)
        bounds[made] = (low, high)
        done.append(made)
    return done


def tells(value: Array) -> bool:
    """Whether a tensor can be told apart by its values: finite, and not constant."""
    return _Values(value).tells


def same(a: Array, b: Array) -> bool:
    """Whether two tensors hold the same values, in any order (T1)."""
    first, second = _Values(a), _Values(b)
    return first.tells and second.tells and _same(first, second)


def onnx_values(
    proto: ModelProto, inputs: Iterable[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """Yield every activation of the ONNX for each probe."""
    tensors = activations(proto)
    session = host_session(with_outputs(proto, tensors))
    for sample in inputs:
        computed = [name for name in tensors if name not in sample]
        values = session.run(computed, dict(sample))
        yield {**sample, **dict(zip(computed, values, strict=True))}
