"""What a file really holds: read back from it, and from what ONNX Runtime makes of it.

The names of the float graph's nodes survive in ours and in the optimized graph, so a share of its
multiply-accumulates can be told.
"""

from __future__ import annotations

import platform
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize import isa
from torchopt2edge.quantize.graph.prepare import QUANTIZED_OPS, nodes
from torchopt2edge.quantize.qdq_plan import MOVES
from torchopt2edge.quantize.saturation import saturating_layers
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

PAIR = ("QuantizeLinear", "DequantizeLinear")
_INTEGER = re.compile(
    r"QLinear\w+|QGemm|ConvInteger|MatMulInteger|DynamicQuantizeMatMul|MatMulIntegerToFloat"
)
_PLAIN = frozenset(("Cast", "Constant", "DynamicQuantizeLinear", *MOVES, *PAIR))


def read_back(file: Path, macs: Mapping[str, int], excluded: Collection[str] = ()) -> Facts:
    """Count what the file computes in integers; ``macs`` are the float graph's (`macs_of`).

    ``int8_macs`` is in per cent. ``integer_ops`` are kernels of the graph that ONNX Runtime
    optimizes on this host, ``float_ops`` nodes of the float graph that compute and have none.
    ``zeros`` is the per cent of weights that are zero.
    ``unfused_qdq`` counts the dequantizations that are left inside of the graph. ``excluded``
    are those of the given nodes that are left in float: a light one between two integer nodes is
    not, since rounding what it reads and makes is all that its integer kernel does.
    ``saturating_layers`` counts the integer layers whose sums can saturate on x86 without VNNI
    (`quantize.saturation`); ``exact_on`` lists the kinds of processor (`isa.KINDS`) on which no
    sum saturates, so that the file's outputs are those that were checked.
    """
    import onnx

    proto = onnx.load(file)
    ops = _counted(node.op_type for node in nodes(proto.graph))
    integer = bool(QUANTIZED_OPS & set(ops))
    graph = _optimized(proto, everything=False) if integer else proto.graph
    kernels = [node for node in graph.node if _INTEGER.fullmatch(node.op_type)]
    names = {node.name for node in kernels}
    names |= {node.name for node in proto.graph.node if _INTEGER.fullmatch(node.op_type)}
    counting = _whole(proto)
    left = [
        node.op_type
        for node in proto.graph.node
        if node.name and node.op_type not in _PLAIN and node.name not in names | counting
    ]
    saturating = saturating_layers(graph)
    total = sum(macs.values())
    done = sum(count for name, count in macs.items() if name in names)
    return {
        "ops": ops,
        "int8_macs": round(100 * done / total, 3) if total else 0.0,
        "integer_ops": _counted(node.op_type for node in kernels),
        "float_ops": _counted(left),
        "zeros": zeros(proto),
        "unfused_qdq": _unfused(graph),
        "transposes": _transposes(_optimized(proto, everything=True) if integer else graph),
        "excluded": sorted({node.name for node in proto.graph.node} & set(excluded) - names),
        "facts_host": platform.machine(),
        "saturating_layers": len(saturating),
        "exact_on": [kind for kind in isa.KINDS if kind != isa.X86 or not saturating],
    }


def zeros(proto: ModelProto) -> float:
    """Return the per cent of zeros among the weights: initializers of two dimensions or more."""
    from onnx import TensorProto, numpy_helper

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
    known = [w for w in proto.graph.initializer if len(w.dims) > 1 and w.data_type in kinds]
    arrays = [numpy_helper.to_array(weight) for weight in known]
    total = sum(array.size for array in arrays)
    # the package's uint8 weights have zero point 128 (`quantize.grid.as_unsigned`)
    gone = sum(int(np.count_nonzero(a == (128 if a.dtype == np.uint8 else 0))) for a in arrays)
    return round(100.0 * gone / total, 2) if total else 0.0


def scheme_of(proto: ModelProto) -> str:
    """Return the name of the format that a graph is in."""
    from onnx import TensorProto

    ops = {node.op_type for node in nodes(proto.graph)}
    if ops & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}:
        return "int8_dynamic"
    sizes: Counter[int] = Counter()
    for weight in proto.graph.initializer:
        sizes[weight.data_type] += int(np.prod(weight.dims))
    if ops & (QUANTIZED_OPS - {"DequantizeLinear"}):
        small = (TensorProto.UINT8, TensorProto.INT8)
        ends = {value.type.tensor_type.elem_type for value in proto.graph.input}
        return "int8_io" if ends & set(small) else "int8"
    if sizes[TensorProto.INT8] > sizes[TensorProto.FLOAT]:
        return "int8_weights"
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def unsigned(proto: ModelProto) -> ModelProto:
    """Return a twin whose s8 activations are u8, with every code 128 higher.

    ONNX Runtime fuses pairs of s8 activations on arm64 alone; on another host the twin shows
    what it fuses there.
    """
    import onnx

    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    graph, weights = twin.graph, {weight.name: weight for weight in twin.graph.initializer}
    turned = set()
    for node in graph.node:
        if node.op_type in PAIR and not weights[node.input[1]].dims:
            turned |= {name for name in (node.input[0], node.input[2]) if name in weights}
    for name in turned:
        codes = onnx.numpy_helper.to_array(weights[name])
        if codes.dtype == np.int8:
            raised = (codes.astype(np.int16) + 128).astype(np.uint8)
            weights[name].CopyFrom(onnx.numpy_helper.from_array(raised, name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT8:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    del graph.value_info[:]
    return twin


def _optimized(proto: ModelProto, *, everything: bool) -> GraphProto:
    """Return the graph as the host's ONNX Runtime rewrites it before it runs.

    Layout changes, which rename nodes, are made only with ``everything``.
    """
    import onnx
    import onnxruntime as ort

    host_fuses = platform.machine() in ("arm64", "aarch64")
    given = proto if host_fuses else unsigned(proto)
    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if everything else levels.ORT_ENABLE_EXTENDED
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(out)
        providers = ["CPUExecutionProvider"]
        ort.InferenceSession(given.SerializeToString(), options, providers=providers)
        return onnx.load(out).graph


def _whole(proto: ModelProto) -> set[str]:
    """Name the nodes that compute whole numbers in the float graph too: shapes and indices."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    whole = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    known = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type in whole
    }
    return {node.name for node in graph.node if node.output[0] in known}


def _transposes(graph: GraphProto) -> int:
    return sum(node.op_type == "Transpose" for node in graph.node)


def _unfused(graph: GraphProto) -> int:
    read: set[str] = {name for node in graph.node for name in node.input}
    held = {weight.name for weight in graph.initializer}
    return sum(
        node.op_type == "DequantizeLinear" and node.output[0] in read and node.input[0] not in held
        for node in graph.node
    )


def _counted(names: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(names).most_common())
