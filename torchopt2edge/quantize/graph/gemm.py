"""A MatMul with constant weights and the Add of its bias: one layer, as every runtime has it.

An exporter writes ``nn.Linear`` on more than two dimensions as MatMul and Add. LiteRT adds the
bias inside of its FULLY_CONNECTED, in 32 bits; ONNX Runtime has a bias in its integer Gemm alone,
and would round what is between MatMul and Add to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.index import View
from torchopt2edge.quantize.graph.op_types import FUSED, name_of
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shape = tuple[int, ...]
"""Of a tensor, with -1 for each free dimension."""


def biases(view: View) -> dict[str, NodeProto]:
    """Map the name of each Add that is the bias of a MatMul to that MatMul."""
    ends = {value.name for value in view.proto.graph.output}
    found = {}
    for node in view.proto.graph.node:
        given = view.varying(node) if node.op_type == "Add" and len(node.input) == 2 else []
        layer = view.made.get(given[0]) if len(given) == 1 else None
        if layer is None or layer.op_type != "MatMul" or given[0] in ends:
            continue
        weight, bias = view.constants.get(layer.input[1]), view.constants[_other(node, given[0])]
        if weight is None or len(weight.dims) != 2 or len(view.readers[given[0]]) != 1:
            continue
        size = math.prod(bias.dims)
        if size in (1, weight.dims[1]) and size == (bias.dims or [1])[-1]:
            found[name_of(node)] = layer
    return found


def as_gemm(proto: ModelProto, ranges: Ranges) -> Ranges:
    """Write each such pair as a Gemm, in place; return the ranges with those of new tensors.

    The Gemm has the MatMul's name. Of more than two dimensions those before the last become rows:
    by a Reshape before it, and one behind it and behind the Relu or Clip that alone reads it. A
    pair stays that has an excluded node, or several free dimensions.
    """
    view, shapes = View.of(proto), _shapes(proto)
    taken = {}
    for name, layer in biases(view).items():
        back = shapes.get(layer.output[0], ())
        if not {name, name_of(layer)} & set(ranges.excluded) and back and back.count(-1) < 2:
            taken[name] = layer, back
    writer = _Writer(view, dict(ranges.bounds))
    gone = {name_of(layer) for layer, _ in taken.values()}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if name_of(node) in taken:
            nodes += writer.gemm(node, *taken[name_of(node)])
        elif node.input and node.input[0] in writer.open:
            nodes += writer.cut(node)
        elif name_of(node) not in gone:
            nodes.append(node)
    kept = [*nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return replace(ranges, bounds=writer.bounds)


class _Writer:
    """Writes the nodes of a pair; ``open`` holds sums whose Reshape comes behind their cut."""

    def __init__(self, view: View, bounds: dict[str, tuple[float, float]]) -> None:
        self.view, self.bounds = view, bounds
        self.graph = view.proto.graph
        self.ends = {value.name for value in self.graph.output}
        self.rows: set[str] = set()
        self.open: dict[str, Shape] = {}

    def gemm(self, add: NodeProto, layer: NodeProto, back: Shape) -> Iterator[NodeProto]:
        """Yield what stands for a pair whose sum has the shape ``back``."""
        from onnx import helper

        source, total = layer.input[0], add.output[0]
        weight, bias = layer.input[1], self._vector(_other(add, layer.output[0]))
        if len(back) == 2:
            yield helper.make_node("Gemm", [source, weight, bias], [total], layer.name)
            return
        if source not in self.rows:
            self.rows.add(source)
            width = self.view.constants[weight].dims[0]
            yield self._reshape(source, self._twin(source), (-1, width))
        given, made = f"{source}@rows", self._twin(total)
        yield helper.make_node("Gemm", [given, weight, bias], [made], layer.name)
        readers = self.view.readers[total]
        if len(readers) == 1 and readers[0].op_type in FUSED and total not in self.ends:
            self.open[total] = back
        else:
            yield self._reshape(made, total, back)

    def cut(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield a Relu or Clip on rows, and the Reshape that was left open for it."""
        source, target = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{source}@rows", self._twin(target)
        yield node
        yield self._reshape(f"{target}@rows", target, self.open[source])

    def _twin(self, name: str) -> str:
        """Name the rows of a tensor; they have its range."""
        from onnx import TensorProto, helper

        twin = f"{name}@rows"
        if name in self.bounds:
            self.bounds[twin] = self.bounds[name]
        self.graph.value_info.append(helper.make_tensor_value_info(twin, TensorProto.FLOAT, None))
        return twin

    def _reshape(self, given: str, made: str, shape: Sequence[int]) -> NodeProto:
        from onnx import helper

        size = self._constant(f"{made}@shape", np.array(shape, np.int64))
        return helper.make_node("Reshape", [given, size], [made])

    def _vector(self, bias: str) -> str:
        """Return a bias of one dimension: a Gemm takes no other."""
        held = self.view.array(bias)
        assert held is not None
        return bias if held.ndim == 1 else self._constant(f"{bias}@vector", held.ravel())

    def _constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        if all(weight.name != name for weight in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name


def _other(add: NodeProto, name: str) -> str:
    return str(next(one for one in add.input if one != name))


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
