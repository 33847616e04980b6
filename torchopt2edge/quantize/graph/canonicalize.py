"""Write the same computation the way the runtimes know it best, in names that can be shipped.

The rules, each exact in real arithmetic, cited in the code:

C1. ``ReduceMean`` over H, W of an NCHW tensor, ``keepdims=1`` → ``GlobalAveragePool``.
C2. The same with ``keepdims=0`` → ``GlobalAveragePool``, then ``Flatten(axis=1)``.
C3. The first, free dimension of the inputs is called ``batch``, wherever it appears.
C4. What an exporter notes of the source code (metadata, doc strings: names of files on the
    machine that exported) goes.
C5. Every node has a name of its own: that of its first output where it had none, and a number
    where others had it too. Lists of nodes left in float go by names, and ONNX Runtime's
    quantizer tells the readers of a shared bias apart by them.

The dynamo exporter writes ReduceMean for pooling, and ONNX Runtime does not quantize ReduceMean:
each one left would be a float island.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def canonicalize(proto: ModelProto) -> int:
    """Rewrite the graph in place by the rules; return how many nodes were rewritten.

    Ranks are taken from inferred shapes; a tensor of unknown rank is left alone.
    """
    _name_batch(proto.graph)
    _forget_sources(proto)
    ranks, constants = _ranks(proto), _constants(proto.graph)
    nodes: list[NodeProto] = []
    axes: set[str] = set()
    done = 0
    for node in proto.graph.node:
        instead = _pooled(node, ranks, constants)
        done += bool(instead)
        axes.update(node.input[1:] if instead else ())
        nodes.extend(instead or [node])
    if done:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        _drop(proto.graph, axes - set(uses(proto.graph)))
    _name_nodes(proto.graph)
    return done


def _pooled(
    node: NodeProto, ranks: Mapping[str, int], constants: Mapping[str, list[int]]
) -> list[NodeProto]:
    """C1, C2: return what replaces ``node``, nothing when no rule fits."""
    from onnx import helper

    if node.op_type != "ReduceMean" or node.domain not in ("", "ai.onnx"):
        return []
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
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


def _forget_sources(model: ModelProto) -> None:
    """C4."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.initializer, *_values(graph)):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")


def _name_nodes(graph: GraphProto) -> None:
    """C5."""
    there = Counter(node.name for node in graph.node)
    taken = set(there)
    for node in graph.node:
        if node.name and there[node.name] == 1:
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


def _constants(graph: GraphProto) -> dict[str, list[int]]:
    """Return the integer constants that could be axes."""
    from onnx import TensorProto, numpy_helper

    tensors = [(weight.name, weight) for weight in graph.initializer]
    tensors += [
        (node.output[0], node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    ]
    return {
        name: numpy_helper.to_array(tensor).ravel().tolist()
        for name, tensor in tensors
        if tensor.data_type == TensorProto.INT64 and sum(tensor.dims) <= 4
    }


def uses(graph: GraphProto) -> Counter[str]:
    """Count how often each tensor is read by a node, those of subgraphs too, or given out."""
    counts = Counter(value.name for value in graph.output)
    for node in graph.node:
        counts.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                counts += uses(attribute.g)
    return counts


def _drop(graph: GraphProto, gone: set[str]) -> None:
    """Take out constants by name."""
    nodes = [node for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)
    weights = [weight for weight in graph.initializer if weight.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def drop_unused(graph: GraphProto) -> None:
    """Take out the constants that nothing reads."""
    read = uses(graph)
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    constants |= {weight.name for weight in graph.initializer}
    _drop(graph, {name for name in constants if name not in read})
