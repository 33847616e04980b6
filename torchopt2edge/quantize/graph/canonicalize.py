"""Rewrite a graph into the operators that the runtimes know best, with names that can be shipped.

The rules, each exact in real arithmetic, cited in the code:

C1. ``ReduceMean`` over H and W of an NCHW tensor with ``keepdims=1`` → ``GlobalAveragePool``.
C2. The same with ``keepdims=0`` → ``GlobalAveragePool`` and ``Flatten(axis=1)``.
C3. The first, free dimension of the inputs is called ``batch`` wherever it appears.
C4. Metadata and doc strings are removed: exporters write file names of their machine there.
C5. Every node gets a unique name: that of its first output where it has none, with a number where
    the name is taken. Lists of nodes that stay in float use these names, and ONNX Runtime's
    quantizer tells the consumers of a shared bias apart by them.

The dynamo exporter writes ReduceMean for pooling. ONNX Runtime does not quantize ReduceMean, so
each one left would stay in float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torchopt2edge.quantize.graph.index import (
    attributes_of,
    constants_of,
    replace_nodes,
    uses,
    values_of,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def canonicalize(proto: ModelProto, pooling: bool = True) -> int:
    """Rewrite a graph in place by rules C1 to C5.

    Ranks are taken from inferred shapes; a node whose input has an unknown rank stays.

    Args:
        proto: the graph.
        pooling: whether C1 and C2 are applied.

    Returns:
        The number of nodes that C1 and C2 replaced.
    """
    _name_batch(proto.graph)
    _remove_metadata(proto)
    ranks, constants = _ranks(proto), _axes_constants(proto.graph)
    nodes: list[NodeProto] = []
    axes: set[str] = set()
    count = 0
    for node in proto.graph.node:
        pooled = _pooling(node, ranks, constants) if pooling else []
        count += bool(pooled)
        axes.update(node.input[1:] if pooled else ())
        nodes.extend(pooled or [node])
    if count:
        replace_nodes(proto.graph, nodes)
        _remove_constants(proto.graph, axes - set(uses(proto.graph)))
    _name_nodes(proto.graph)
    return count


def _pooling(
    node: NodeProto, ranks: Mapping[str, int], constants: Mapping[str, list[int]]
) -> list[NodeProto]:
    """C1, C2: return what replaces a node, nothing when neither rule applies."""
    from onnx import helper

    if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
        return []
    attributes = attributes_of(node)
    axes = attributes.get("axes")  # an attribute until opset 17, an input since
    if axes is None and len(node.input) > 1:
        axes = constants.get(node.input[1])
    if axes is None or ranks.get(node.input[0]) != 4:
        return []
    if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return []
    name, source, target = node.name or node.output[0], node.input[0], node.output[0]
    if attributes.get("keepdims", 1):
        return [helper.make_node("GlobalAveragePool", [source], [target], name=name)]
    pooled = f"{target}/pooled"
    return [
        helper.make_node("GlobalAveragePool", [source], [pooled], name=name),
        helper.make_node("Flatten", [pooled], [target], name=f"{name}/flatten", axis=1),
    ]


def _name_batch(graph: GraphProto) -> None:
    """C3."""
    names = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in graph.input
        if len(value.type.tensor_type.shape.dim)
    } - {""}
    if len(names) != 1:
        return
    for value in _values(graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = "batch"


def _remove_metadata(model: ModelProto) -> None:
    """C4."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.initializer, *_values(graph)):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")


def _name_nodes(graph: GraphProto) -> None:
    """C5."""
    counts = Counter(node.name for node in graph.node)
    taken = set(counts)
    for node in graph.node:
        if node.name and counts[node.name] == 1:
            continue
        stem = name = node.name or next(filter(None, node.output), node.op_type)
        number = 0
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        node.name = name


def _values(graph: GraphProto) -> Iterable[Any]:
    return (*graph.input, *graph.output, *graph.value_info)


def _ranks(model: ModelProto) -> dict[str, int]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in _values(graph)
        if value.type.tensor_type.HasField("shape")
    }


def _axes_constants(graph: GraphProto) -> dict[str, list[int]]:
    """Return the integer constants that could be axes."""
    from onnx import TensorProto

    return {
        name: values_of(tensor).ravel().tolist()
        for name, tensor in constants_of(graph).items()
        if tensor.data_type == TensorProto.INT64 and sum(tensor.dims) <= 4
    }


def _remove_constants(graph: GraphProto, names: set[str]) -> None:
    """Remove initializers and Constant nodes by name."""
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in names])
    weights = [weight for weight in graph.initializer if weight.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def drop_unused(graph: GraphProto) -> None:
    """Remove the initializers and Constant nodes that nothing reads, in place."""
    read = uses(graph)
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    constants |= {weight.name for weight in graph.initializer}
    _remove_constants(graph, {name for name in constants if name not in read})
