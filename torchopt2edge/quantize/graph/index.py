"""One index of an ONNX graph: which node produces a tensor, which nodes read it, what is constant.

Every module that asks these questions takes them from here. The graph itself stays a
``ModelProto``: ONNX Runtime, shape inference, the checker and the version converter take nothing
else, so any other representation would be converted at each of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class GraphIndex:
    """The main graph of a model, indexed by tensor name.

    Attributes:
        proto: the model. It must not change while the index is in use.
        producers: the node that computes a tensor; inputs and initializers have none.
        consumers: the nodes of the main graph that read a tensor, once for each of their inputs; an
            empty list for a tensor that none reads. What a subgraph reads is counted by `uses`.
        constants: the values of initializers and of Constant nodes.
    """

    proto: ModelProto
    producers: Mapping[str, NodeProto]
    consumers: Mapping[str, Sequence[NodeProto]]
    constants: Mapping[str, TensorProto]

    @classmethod
    def of(cls, proto: ModelProto) -> GraphIndex:
        """Index a model."""
        consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                consumers[name].append(node)
        producers = {name: node for node in proto.graph.node for name in node.output}
        return cls(proto, producers, consumers, constants_of(proto.graph))

    @cached_property
    def inputs(self) -> list[ValueInfoProto]:
        """The inputs that are fed: old files list initializers among them."""
        return fed_inputs(self.proto.graph)

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(value.name for value in self.proto.graph.output)

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each tensor is read by a node, in subgraphs too, or is an output."""
        return uses(self.proto.graph)

    @cached_property
    def float_weights(self) -> dict[str, TensorProto]:
        """The float32 initializers."""
        return float_weights(self.proto.graph)

    def array(self, name: str) -> Array | None:
        """Return the values of a constant, None for any other tensor."""
        from onnx import numpy_helper

        if name not in self.constants:
            return None
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def producer_type(self, name: str) -> str:
        """Return the type of the operator that computes a tensor, "" for an input or a constant."""
        return str(self.producers[name].op_type) if name in self.producers else ""

    def varying(self, node: NodeProto) -> list[str]:
        """Return the inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]


def walk_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of its subgraphs, in order."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk_nodes(attribute.g)


def uses(graph: GraphProto) -> Counter[str]:
    """Count how often each tensor is read by a node, in subgraphs too, or is an output."""
    counts = Counter(value.name for value in graph.output)
    for node in graph.node:
        counts.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                counts += uses(attribute.g)
    return counts


def fed_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs without the initializers that old files list among them."""
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def constants_of(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the initializers and the tensors of Constant nodes, by name."""
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return constants


def float_weights(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the float32 initializers, by name."""
    from onnx import TensorProto

    return {w.name: w for w in graph.initializer if w.data_type == TensorProto.FLOAT}


def values_of(weight: TensorProto) -> Array:
    """Return the values of an initializer."""
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(weight))


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes as plain values: numbers, bytes, lists, tensors, graphs."""
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Give a graph these nodes in place of its own, which may be among them."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
