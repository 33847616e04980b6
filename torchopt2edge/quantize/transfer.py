"""Carry the ranges of the float ONNX over to the tensors of the float .tflite.

Both files compute the same tensors in another layout, under other names. They are matched by
their values on a few probe samples:

T1. Two tensors match when, on every probe sample, their sorted values agree: a change of layout
    permutes the values, and a range does not see a permutation.
T2. A tensor that is constant on the probe tells nothing and is never matched.
T3. When several ONNX tensors match and their ranges over the calibration set differ, they only
    looked equal on the probe: the tensor is not matched.
T4. The output of a PAD or PADV2 has its input's range joined with the padded value, unless that
    value lies below the range and only pooling by maximum reads it: there it can never win, and
    the -inf that the converter pads with would leave no steps for the values (onnx2tf#444).
T5. What is left is calibrated in the .tflite itself, over the very same samples, and listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.quantize.calibrate import activations, with_outputs
from torchopt2edge.quantize.runtime import host_session
from torchopt2edge.quantize.samples import Samples
from torchopt2edge.quantize.tflite import (
    TfliteGraph,
    activation_values,
    extremes,
    read_graph,
)
from torchopt2edge.types import Facts, Ranges

Array = np.ndarray[Any, Any]
PROBES = 3
RTOL = 1e-3
PADS = ("PAD", "PADV2")


@dataclass(frozen=True)
class Transfer:
    """Ranges by .tflite tensor, which ONNX tensor each came from, and what was left over.

    ``matched`` maps a .tflite tensor to its ONNX twin; ``padded`` are those of rule T4;
    ``calibrated`` those of rule T5.
    """

    bounds: dict[str, tuple[float, float]]
    matched: dict[str, str]
    padded: tuple[str, ...]
    calibrated: tuple[str, ...]

    @property
    def facts(self) -> Facts:
        """How much of the .tflite runs on the ranges of the ONNX."""
        share = 100.0 * (len(self.matched) + len(self.padded)) / max(1, len(self.bounds))
        return {"ranges_matched": round(share, 1), "ranges_calibrated": list(self.calibrated)}


def transfer(
    onnx_file: Path,
    tflite_file: Path,
    ranges: Ranges,
    samples: Samples,
    prepare: Callable[[Mapping[str, Array]], Mapping[str, Array]],
) -> Transfer:
    """Return a range for every float activation of the .tflite.

    ``prepare`` brings one sample (batch 1, source layout) to the .tflite's names and layout.
    """
    graph = read_graph(tflite_file)

    def run(limit: int | None) -> Iterator[dict[str, Array]]:
        return activation_values(tflite_file, graph, map(prepare, samples.batches(1, limit)))

    matched = match(_onnx_values(onnx_file, samples), run(PROBES), ranges)
    bounds = {name: ranges.bounds[twin] for name, twin in matched.items()}
    padded = _pad(graph, bounds)
    rest = set(graph.activations.values()) - set(bounds)
    if rest:
        found = extremes(run(None), rest)
        padding = {op.outputs[0] for op in graph.ops if op.kind in PADS}
        bounds.update({name: found[name] for name in rest - padding})
        _pad(graph, bounds)  # of what was calibrated just now
        bounds.update({name: found[name] for name in rest - set(bounds)})
    return Transfer(bounds, matched, tuple(padded), tuple(sorted(rest)))


def match(
    sources: Iterable[Mapping[str, Array]], targets: Iterable[Mapping[str, Array]], ranges: Ranges
) -> dict[str, str]:
    """Map target tensors to source tensors by rules T1 to T3, over samples walked in step."""
    open_pairs: dict[str, set[str]] | None = None
    for source, target in zip(sources, targets, strict=True):
        theirs = {name: _print(value) for name, value in source.items() if name in ranges.bounds}
        ours = {name: _print(value) for name, value in target.items()}
        found = {
            name: {twin for twin, other in theirs.items() if _same(value, other)}
            for name, value in ours.items()
            if value[0] < value[-1]  # T2
        }
        open_pairs = found if open_pairs is None else _narrow(open_pairs, found)
    return {
        name: min(twins)
        for name, twins in (open_pairs or {}).items()
        if twins and _agree([ranges.bounds[twin] for twin in twins])
    }


def _narrow(before: dict[str, set[str]], now: dict[str, set[str]]) -> dict[str, set[str]]:
    return {name: twins & now[name] for name, twins in before.items() if name in now}


def _print(value: Array) -> Array:
    """Return the values in ascending order: what no change of layout alters."""
    return np.sort(value, axis=None)


def _same(a: Array, b: Array) -> bool:
    """T1, cheapest test first."""
    if a.size != b.size:
        return False
    slack = RTOL * max(abs(float(a[0])), abs(float(a[-1])))
    if abs(float(a[0] - b[0])) > slack or abs(float(a[-1] - b[-1])) > slack:
        return False
    return bool(np.max(np.abs(a - b)) <= slack)


def _agree(bounds: list[tuple[float, float]]) -> bool:
    """T3: the ranges are the same up to rounding."""
    lows, highs = np.array(bounds).T
    slack = RTOL * max(np.abs(lows).max(), np.abs(highs).max())
    return bool(np.ptp(lows) <= slack and np.ptp(highs) <= slack)


def _pad(graph: TfliteGraph, bounds: dict[str, tuple[float, float]]) -> list[str]:
    """T4."""
    done = []
    for op in graph.ops:
        given, made = op.inputs[:1], op.outputs[0]
        if op.kind not in PADS or given[0] not in bounds or made in bounds:
            continue
        low, high = bounds[given[0]]
        value = 0.0 if op.kind == "PAD" else graph.constants.get(op.inputs[2], 0.0)
        readers = {other.kind for other in graph.ops if made in other.inputs}
        if not (value < low and readers == {"MAX_POOL_2D"}):
            low, high = min(low, value), max(high, value)
        bounds[made] = (low, high)
        done.append(made)
    return done


def _onnx_values(onnx_file: Path, samples: Samples) -> Iterator[dict[str, Array]]:
    """Yield every activation of the ONNX for each probe sample."""
    import onnx

    proto = onnx.load(onnx_file)
    tensors = activations(proto)
    session = host_session(with_outputs(proto, tensors))
    computed = [name for name in tensors if name not in samples.names]
    for sample in samples.batches(1, PROBES):
        values = session.run(computed, sample)
        yield {**sample, **dict(zip(computed, values, strict=True))}
