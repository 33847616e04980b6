"""What a file really contains: read back from it, and from the graph that ONNX Runtime makes of it.

The names of the float graph's nodes survive in the written and in the optimized graph, so the share
of its multiply-accumulates that runs on integers can be computed.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize import isa
from torchopt2edge.quantize.graph.index import values_of, walk_nodes
from torchopt2edge.quantize.graph.op_types import MOVES, QDQ, is_integer_kernel, is_quantized
from torchopt2edge.quantize.saturation import saturating_layers
from torchopt2edge.types import Facts

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

# What computes no values: a Resize may, but is counted with what moves them.
_COMPUTES_NOTHING = {"Cast", "Constant", "DynamicQuantizeLinear", "Resize"} | MOVES | QDQ


def read_back(proto: ModelProto, macs: Mapping[str, int], excluded: Collection[str] = ()) -> Facts:
    """Count what a file computes in integers.

    Args:
        proto: the graph as it is in the file.
        macs: the multiply-accumulates of the float graph (`macs_of`).
        excluded: nodes that were to stay in float.

    Returns:
        Facts:

        - ``ops``: the nodes by type.
        - ``int8_macs``: the share of the MACs that runs on integers, in per cent.
        - ``integer_ops``: the integer kernels by type, in the graph that ONNX Runtime optimizes on
          this host (``facts_host``).
        - ``float_ops``: the nodes of the float graph that compute and have no integer kernel.
        - ``zeros``: the per cent of weights that are zero.
        - ``unfused_qdq``: the dequantizations that are left inside the graph.
        - ``transposes``: the transpositions that ONNX Runtime inserts or leaves.
        - ``excluded``: the excluded nodes that are in float. A node without weights between two
          integer nodes is not: all that its integer kernel does is round its inputs and outputs.
        - ``saturating_layers``: how many integer layers have sums that can saturate on x86 without
          VNNI (`quantize.saturation`).
        - ``exact_on``: the kinds of processor (`isa.KINDS`) on which no sum saturates, so that the
          file's outputs are the checked ones.
    """
    ops = _counted(node.op_type for node in walk_nodes(proto.graph))
    quantized = any(is_quantized(op) for op in ops)
    graph = _optimized(proto, everything=False) if quantized else proto.graph
    kernels = [node for node in graph.node if is_integer_kernel(node.op_type)]
    names = {node.name for node in kernels}
    names |= {node.name for node in proto.graph.node if is_integer_kernel(node.op_type)}
    known = names | _shape_nodes(proto)
    floats = [
        node.op_type
        for node in proto.graph.node
        if node.name and node.op_type not in _COMPUTES_NOTHING and node.name not in known
    ]
    saturating = saturating_layers(graph)
    total = sum(macs.values())
    integer_macs = sum(count for name, count in macs.items() if name in names)
    return {
        "ops": ops,
        "int8_macs": round(100 * integer_macs / total, 3) if total else 0.0,
        "integer_ops": _counted(node.op_type for node in kernels),
        "float_ops": _counted(floats),
        "zeros": zeros(proto),
        "unfused_qdq": _unfused(graph),
        "transposes": _transposes(_optimized(proto, everything=True) if quantized else graph),
        "excluded": sorted({node.name for node in proto.graph.node} & set(excluded) - names),
        "facts_host": platform.machine(),
        "saturating_layers": len(saturating),
        "exact_on": [kind for kind in isa.KINDS if kind != isa.X86 or not saturating],
    }


def zeros(proto: ModelProto) -> float:
    """Return the per cent of zeros among the weights: initializers of two dimensions or more."""
    from onnx import TensorProto

    dtypes = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
    weights = [w for w in proto.graph.initializer if len(w.dims) > 1 and w.data_type in dtypes]
    arrays = [values_of(weight) for weight in weights]
    total = sum(array.size for array in arrays)
    # the package's uint8 weights have zero point 128 (`qparams.as_unsigned`)
    count = sum(int(np.count_nonzero(a == (128 if a.dtype == np.uint8 else 0))) for a in arrays)
    return round(100.0 * count / total, 2) if total else 0.0


def scheme_of(proto: ModelProto) -> str:
    """Return the name of the scheme (`types.SCHEMES`) that a graph is in."""
    from onnx import TensorProto

    ops = {node.op_type for node in walk_nodes(proto.graph)}
    if ops & {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}:
        return "int8_dynamic"
    sizes: Counter[int] = Counter()
    for weight in proto.graph.initializer:
        sizes[weight.data_type] += int(np.prod(weight.dims))
    if any(is_quantized(op) for op in ops - {"DequantizeLinear"}):
        inputs = {value.type.tensor_type.elem_type for value in proto.graph.input}
        return "int8_io" if inputs & {TensorProto.UINT8, TensorProto.INT8} else "int8"
    if sizes[TensorProto.INT8] > sizes[TensorProto.FLOAT]:
        return "int8_weights"
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def unsigned(proto: ModelProto) -> ModelProto:
    """Return a copy whose int8 activations are uint8, every integer 128 higher.

    ONNX Runtime fuses pairs of int8 activations on arm64 alone; on another host the copy shows
    what it fuses there.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph, weights = copy.graph, {weight.name: weight for weight in copy.graph.initializer}
    constants = set()
    for node in graph.node:
        if node.op_type in QDQ and not weights[node.input[1]].dims:
            constants |= {name for name in (node.input[0], node.input[2]) if name in weights}
    for name in constants:
        integers = values_of(weights[name])
        if integers.dtype == np.int8:
            shifted = (integers.astype(np.int16) + 128).astype(np.uint8)
            weights[name].CopyFrom(onnx.numpy_helper.from_array(shifted, name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT8:
            value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    del graph.value_info[:]
    return copy


def _optimized(proto: ModelProto, *, everything: bool) -> GraphProto:
    """Return the graph as the host's ONNX Runtime rewrites it before it runs.

    Layout changes, which rename nodes, are made only with ``everything``.
    """
    import onnx
    import onnxruntime as ort

    host_fuses = platform.machine() in ("arm64", "aarch64")
    source = proto if host_fuses else unsigned(proto)
    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if everything else levels.ORT_ENABLE_EXTENDED
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(file)
        providers = ["CPUExecutionProvider"]
        ort.InferenceSession(source.SerializeToString(), options, providers=providers)
        return onnx.load(file).graph


def _shape_nodes(proto: ModelProto) -> set[str]:
    """Return the nodes that compute integers in the float graph too: shapes and indices."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(proto).graph
    dtypes = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    tensors = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type in dtypes
    }
    return {node.name for node in graph.node if node.output[0] in tensors}


def _transposes(graph: GraphProto) -> int:
    return sum(node.op_type == "Transpose" for node in graph.node)


def _unfused(graph: GraphProto) -> int:
    read: set[str] = {name for node in graph.node for name in node.input}
    weights = {weight.name for weight in graph.initializer}
    dequantizing = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    return sum(n.output[0] in read and n.input[0] not in weights for n in dequantizing)


def _counted(names: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(names).most_common())
