"""What ai-edge-quantizer is told for each scheme: recipes as data, and the numbers to use.

A recipe is a list of rules; of those whose regex and operation fit an operator, the last holds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.backends.litert.flatbuffer import Op, Tensor, TfliteGraph
from torchopt2edge.backends.silence import quiet
from torchopt2edge.errors import LowerError
from torchopt2edge.quantize.qparams import min_weight_scale, quantize_weight

Rule = dict[str, Any]
Bounds = Mapping[str, tuple[float, float]]


def _int(bits: int, granularity: str, symmetric: bool = True) -> Rule:
    return {
        "num_bits": bits,
        "symmetric": symmetric,
        "granularity": granularity,
        "dtype": "INT",
        "block_size": 0,
    }


def _all(weights: Rule, activations: Rule | None, algorithm: str = "") -> Rule:
    """Quantize every operator that can be; with ``activations`` None these stay float."""
    inside = activations is not None or algorithm == "dynamic"
    how: Rule = {
        "weight_tensor_config": weights,
        "compute_precision": "INTEGER" if inside else "FLOAT",
        "explicit_dequantize": not inside,
        "skip_checks": False,
        "min_weight_elements": 0,
    }
    if activations is not None:
        how["activation_tensor_config"] = activations
    key = "float_casting" if weights["dtype"] == "FLOAT" else "min_max_uniform_quantize"
    return {"regex": ".*", "operation": "*", "algorithm_key": key, "op_config": how}


def _float(operation: str, regex: str = ".*") -> Rule:
    return {
        "regex": regex,
        "operation": operation,
        "algorithm_key": "no_quantize",
        "op_config": {},
    }


_WEIGHTS = _int(8, "CHANNELWISE")
_HALF = {**_int(16, "TENSORWISE"), "dtype": "FLOAT"}
_A8, _A16 = _int(8, "TENSORWISE", symmetric=False), _int(16, "TENSORWISE")
_FLOAT_IO = (_float("INPUT"), _float("OUTPUT"))
# XNNPACK has no integer kernel for it: quantized, each leaves the delegate and parts it in two.
_SWISH = _float("HARD_SWISH")
# Nor has it a kernel for a depthwise convolution of float activations with int8 weights.
_DEPTHWISE = _float("DEPTHWISE_CONV_2D")

RECIPES: Mapping[str, tuple[Rule, ...]] = {
    "fp16": (_all(_HALF, None),),
    "int8_weights": (_all(_WEIGHTS, None),),
    "int8_dynamic": (_all(_WEIGHTS, None, "dynamic"), _DEPTHWISE),
    "int8": (_all(_WEIGHTS, _A8), *_FLOAT_IO, _SWISH),
    "int8_io": (_all(_WEIGHTS, _A8), _SWISH),
    "int16x8": (_all(_WEIGHTS, _A16), *_FLOAT_IO, _SWISH),
}
"""What each scheme tells the quantizer; ``fp32`` tells it nothing."""

_TENSOR_INDEX = 6  # of the field in a TensorMap
LEVELS = {"int8": 255, "int8_io": 255, "int16x8": 65534}
"""Steps between the ends of an activation's range, in the schemes that are static."""

# Where the weights, the bias and the axis of the output channels are.
_PLACES = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}


def recipe_of(scheme: str, keep: Iterable[Op] = ()) -> list[Rule]:
    """Return the rules of a scheme, with the operators ``keep`` left in float."""
    return [*RECIPES[scheme], *(_kept(op) for op in keep)]


def _kept(op: Op) -> Rule:
    """Leave out one operator: a regex is searched in its outputs' names, each with a ";".

    The operation is named too: a graph's input and output are operators to the quantizer, with
    the names of their tensors.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

    scope = "".join(f"{name};" for name in op.outputs)
    known = TFL_OP_CODE_TO_NAME.get(getattr(schema.BuiltinOperator, op.kind, -1))
    return _float(op.kind if known is None else known.value, rf"^{re.escape(scope)}$")


def alive(low: float, high: float) -> tuple[float, float]:
    """Return a range that holds 0 and has steps: a tensor that never leaves 0 gets those to 1."""
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if low < high else (0.0, 1.0)


def numbers(graph: TfliteGraph, bounds: Bounds, scheme: str) -> dict[str, dict[str, Any]]:
    """Return the ranges of activations and weights as the quantizer takes them.

    A range has its tensor's rank: the quantizer takes one of a Concat over to its constants. Those
    of the weights are 127 steps of the scale that `qparams.quantize_weight` finds, the one that
    ONNX Runtime's file gets: 8-bit weights that were trained on a scale come back on it.
    """
    ranks = {t.name: len(t.shape) for op in graph.ops for t in (*op.given, *op.made) if t}
    found = {name: _ends(pair, max(1, ranks.get(name, 1))) for name, pair in bounds.items()}
    for name, (weights, axis, floor) in _weights(graph, bounds, LEVELS.get(scheme)).items():
        _, scales = quantize_weight(weights, axis, min_scale=floor)
        shape = [-1 if at == axis else 1 for at in range(weights.ndim)]
        ends = np.asarray(127.0 * scales.astype(np.float64), np.float32).reshape(shape)
        found[name] = {"min": -ends, "max": ends}
    return found


def _ends(pair: tuple[float, float], rank: int) -> dict[str, Any]:
    low, high = (np.full((1,) * rank, end, np.float32) for end in pair)
    return {"min": low, "max": high}


def _weights(graph: TfliteGraph, bounds: Bounds, levels: int | None) -> dict[str, Any]:
    """Find the weights with their channel axis and the least scale at which the biases fit."""
    found: dict[str, Any] = {}
    for op in graph.ops:
        place, at, axis = _PLACES.get(op.kind, (0, 0, 0))
        weights = op.given[place] if place else None
        if weights is None or weights.data is None or weights.dtype != "float32":
            continue
        given = op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0]
        bias: Tensor | None = op.given[at] if len(op.given) > at else None
        floor = None if weights.name not in found else found[weights.name][2]
        if levels and bias is not None and bias.data is not None and given in bounds:
            low, high = bounds[given]
            width = high - low if levels == 255 else 2 * max(-low, high)
            least = min_weight_scale(bias.data, width / levels)
            floor = least if floor is None else np.maximum(floor, least)
        found[weights.name] = (weights.data, axis, floor)
    return found


def quantize(source: Path, rules: list[Rule], given: Mapping[str, Any], target: Path) -> None:
    """Write what the quantizer makes of the float .tflite ``source``.

    Raises:
        LowerError: it fails on this graph.
    """
    from ai_edge_quantizer import quantizer

    try:
        with quiet():
            made = quantizer.Quantizer(str(source), rules).quantize(
                dict(given) or None, enable_progress_bar=False, enable_progress_report=False
            )
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
        raise LowerError(
            f"ai-edge-quantizer failed: {type(error).__name__}: {error}",
            artifact=source,
            hint="leave this scheme out for this backend, or report the net with this message",
        ) from error
    target.write_bytes(_signed(source.read_bytes(), bytearray(made.quantized_model)))


def _signed(before: bytes, after: bytearray) -> bytes:
    """Point the signature at the graph's outputs again.

    Where an operator of the graph reads an output too, the quantizer gives out another tensor
    than before and leaves the signature at the integers.
    """
    from ai_edge_litert import schema_py_generated as schema

    given, made = (schema.Model.GetRootAs(data, 0) for data in (before, after))
    old, new = (model.Subgraphs(0).OutputsAsNumpy().tolist() for model in (given, made))
    for at in range(given.SignatureDefsLength()):
        ends, held = given.SignatureDefs(at), made.SignatureDefs(at)
        for place in range(ends.OutputsLength()):
            wanted = new[old.index(ends.Outputs(place).TensorIndex())]
            table = held.Outputs(place)._tab
            field = table.Offset(_TENSOR_INDEX)
            if field and held.Outputs(place).TensorIndex() != wanted:
                struct.pack_into("<I", after, table.Pos + field, wanted)
    return bytes(after)
