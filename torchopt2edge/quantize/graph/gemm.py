"""Write a MatMul with constant weights and the Add of its bias as the one layer that they are.

An exporter writes ``nn.Linear`` on more than two dimensions as MatMul and Add. LiteRT adds the bias
inside its FULLY_CONNECTED, in 32 bits. ONNX Runtime has an integer bias in its Gemm alone; it would
round the tensor between MatMul and Add to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.index import Array, GraphIndex, replace_nodes
from torchopt2edge.quantize.graph.op_types import FUSED, name_of
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shape = tuple[int, ...]
"""The shape of a tensor, with -1 for each free dimension."""


def bias_adds(index: GraphIndex) -> dict[str, NodeProto]:
    """Return the MatMul whose bias an Add node is, by the Add's name (`name_of`)."""
    matmuls = {}
    for node in index.proto.graph.node:
        given = index.varying(node) if node.op_type == "Add" and len(node.input) == 2 else []
        layer = index.producers.get(given[0]) if len(given) == 1 else None
        if layer is None or layer.op_type != "MatMul" or given[0] in index.outputs:
            continue
        weight = index.constants.get(layer.input[1])
        bias = index.constants[_other_input(node, given[0])]
        if weight is None or len(weight.dims) != 2 or len(index.consumers[given[0]]) != 1:
            continue
        size = math.prod(bias.dims)
        if size in (1, weight.dims[1]) and size == (bias.dims or [1])[-1]:
            matmuls[name_of(node)] = layer
    return matmuls


def as_gemm(proto: ModelProto, ranges: Ranges) -> Ranges:
    """Replace each MatMul and the Add of its bias by a Gemm, in place.

    The Gemm has the MatMul's name. In a tensor of more than two dimensions those before the last
    become rows: by a Reshape before the Gemm and one behind it (behind the Relu or Clip, if that
    alone reads the sum). A pair with an excluded node or several free dimensions stays.

    Args:
        proto: a float graph with inferred shapes, changed in place.
        ranges: its ranges, by tensor.

    Returns:
        The ranges with those of the new tensors.
    """
    index, shapes = GraphIndex.of(proto), _shapes(proto)
    pairs = {}
    for name, layer in bias_adds(index).items():
        shape = shapes.get(layer.output[0], ())
        if not {name, name_of(layer)} & set(ranges.excluded) and shape and shape.count(-1) < 2:
            pairs[name] = layer, shape
    writer = _Writer(index, dict(ranges.bounds))
    replaced = {name_of(layer) for layer, _ in pairs.values()}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if name_of(node) in pairs:
            nodes += writer.gemm(node, *pairs[name_of(node)])
        elif node.input and node.input[0] in writer.open:
            nodes += writer.activation(node)
        elif name_of(node) not in replaced:
            nodes.append(node)
    replace_nodes(proto.graph, nodes)
    return replace(ranges, bounds=writer.bounds)


class _Writer:
    """Writes the nodes of a pair; ``open`` holds sums whose Reshape follows their activation."""

    def __init__(self, index: GraphIndex, bounds: dict[str, tuple[float, float]]) -> None:
        self.index, self.bounds = index, bounds
        self.graph = index.proto.graph
        self.reshaped: set[str] = set()
        self.open: dict[str, Shape] = {}

    def gemm(self, add: NodeProto, layer: NodeProto, shape: Shape) -> Iterator[NodeProto]:
        """Yield what replaces a pair whose sum has this shape."""
        from onnx import helper

        source, total = layer.input[0], add.output[0]
        weight, bias = layer.input[1], self._vector(_other_input(add, layer.output[0]))
        if len(shape) == 2:
            yield helper.make_node("Gemm", [source, weight, bias], [total], layer.name)
            return
        if source not in self.reshaped:
            self.reshaped.add(source)
            width = self.index.constants[weight].dims[0]
            yield self._reshape(source, self._rows_of(source), (-1, width))
        rows, result = f"{source}@rows", self._rows_of(total)
        yield helper.make_node("Gemm", [rows, weight, bias], [result], layer.name)
        readers = self.index.consumers[total]
        alone = len(readers) == 1 and total not in self.index.outputs
        if alone and readers[0].op_type in FUSED:
            self.open[total] = shape
        else:
            yield self._reshape(result, total, shape)

    def activation(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a Relu or Clip on rows, and the Reshape that was left open for it."""
        source, target = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{source}@rows", self._rows_of(target)
        yield node
        yield self._reshape(f"{target}@rows", target, self.open[source])

    def _rows_of(self, name: str) -> str:
        """Declare the rows of a tensor, with its range; return their name."""
        from onnx import TensorProto, helper

        rows = f"{name}@rows"
        if name in self.bounds:
            self.bounds[rows] = self.bounds[name]
        self.graph.value_info.append(helper.make_tensor_value_info(rows, TensorProto.FLOAT, None))
        return rows

    def _reshape(self, source: str, target: str, shape: Sequence[int]) -> NodeProto:
        from onnx import helper

        size = self._constant(f"{target}@shape", np.array(shape, np.int64))
        return helper.make_node("Reshape", [source, size], [target])

    def _vector(self, bias: str) -> str:
        """Return a bias of one dimension, as a Gemm requires it."""
        value = self.index.array(bias)
        assert value is not None
        return bias if value.ndim == 1 else self._constant(f"{bias}@vector", value.ravel())

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        if all(weight.name != name for weight in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def _other_input(add: NodeProto, name: str) -> str:
    return str(next(other for other in add.input if other != name))


def _shapes(proto: ModelProto) -> dict[str, Shape]:
    """Return the shapes that are known, by tensor."""
    graph = proto.graph
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1
            for dim in value.type.tensor_type.shape.dim
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
