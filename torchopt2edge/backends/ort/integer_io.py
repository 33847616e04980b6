"""Integer inputs and outputs: what they mean is in the signature, and can be read off the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.backends.ort.weight_only import constant, rewrite
from torchopt2edge.quantize.qdq_plan import values
from torchopt2edge.quantize.qdq_writer import LAYERS
from torchopt2edge.quantize.qparams import Grid, grid_of
from torchopt2edge.types import Signature, TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Bounds = Mapping[str, tuple[float, float]]


def integer_ends(proto: ModelProto, signature: Signature, bounds: Bounds, dtype: str) -> Signature:
    """Make the graph's float inputs and outputs integer; return the signature that says how.

    An input's QuantizeLinear goes and every reader reads what DequantizeLinear makes of the
    integers; an output is what its QuantizeLinear writes. An end at which nothing is integer
    gets the grid of its range.
    """
    ends = _Ends(proto.graph, bounds, dtype)
    inputs = tuple(_held(spec, ends.input(spec.file_name)) for spec in signature.inputs)
    outputs = tuple(_held(spec, ends.output(spec.file_name)) for spec in signature.outputs)
    rewrite(proto.graph, list(proto.graph.node))
    return Signature(inputs, outputs)


class _Ends:
    def __init__(self, graph: GraphProto, bounds: Bounds, dtype: str) -> None:
        self.graph, self.bounds, self.dtype = graph, bounds, dtype
        self.weights = {weight.name: weight for weight in graph.initializer}

    def input(self, name: str) -> Grid | None:
        """Make one input integer; None when it is none of the floats that have a range."""
        value = next(value for value in self.graph.input if value.name == name)
        if not self._turn(value):
            return None
        back, pair = f"{name}@back", self._pair_of(name)
        if pair is None:
            grid, means = self._means(name)
        else:
            quantize, dequantize = pair
            grid, means = self._grid(quantize), list(quantize.input[1:])
            back = dequantize.output[0]
            self.graph.node.remove(quantize)
            self.graph.node.remove(dequantize)
        self._redirect(name, back)
        self._insert(0, "DequantizeLinear", [name, *means], back)
        self._hide_layers(back)
        return grid

    def output(self, name: str) -> Grid | None:
        """Make one output integer."""
        value = next(value for value in self.graph.output if value.name == name)
        if not self._turn(value):
            return None
        makers = {made: node for node in self.graph.node for made in node.output}
        maker = makers[name]
        if maker.op_type == "DequantizeLinear" and maker.input[0] in makers:
            quantize = makers[maker.input[0]]
            quantize.output[0] = maker.input[0] = name
            maker.output[0] = f"{name}@back"
            self._redirect(name, maker.output[0], but=maker)
            if not any(maker.output[0] in node.input for node in self.graph.node):
                self.graph.node.remove(maker)
            return self._grid(maker)
        grid, means = self._means(name)
        place = list(maker.output).index(name)
        maker.output[place] = f"{name}@float"
        self._redirect(name, maker.output[place])
        self._insert(len(self.graph.node), "QuantizeLinear", [maker.output[place], *means], name)
        return grid

    def _hide_layers(self, back: str) -> None:
        """Keep the float layers that read integers now from being rounded: Q7 of `qdq_writer`."""
        from onnx import helper

        for at, node in reversed(list(enumerate(self.graph.node))):
            if node.op_type in LAYERS and node.input[0] == back and node.input[1] in self.weights:
                made = node.output[0]
                node.output[0] = f"{made}@plain"
                hiding = helper.make_node("LeakyRelu", [node.output[0]], [made], alpha=1.0)
                self.graph.node.insert(at + 1, hiding)

    def _turn(self, value: Any) -> bool:
        """Declare an end as integer; False when it is not float or has no range."""
        from onnx import TensorProto, helper

        tensor = value.type.tensor_type
        if tensor.elem_type != TensorProto.FLOAT or value.name not in self.bounds:
            return False
        tensor.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return True

    def _pair_of(self, name: str) -> tuple[NodeProto, NodeProto] | None:
        readers = [n for n in self.graph.node if n.op_type == "QuantizeLinear"]
        quantize = next((node for node in readers if node.input[0] == name), None)
        if quantize is None:
            return None
        codes = quantize.output[0]
        return quantize, next(node for node in self.graph.node if codes in node.input)

    def _redirect(self, name: str, to: str, but: NodeProto | None = None) -> None:
        for node in self.graph.node:
            if node is not but and node != but and node.op_type != "Shape":
                for place, given in enumerate(node.input):
                    if given == name:
                        node.input[place] = to

    def _insert(self, place: int, op: str, given: list[str], made: str) -> None:
        from onnx import helper

        self.graph.node.insert(place, helper.make_node(op, given, [made]))

    def _means(self, name: str) -> tuple[Grid, list[str]]:
        grid = grid_of(*self.bounds[name], self.dtype)
        scale = constant(self.graph, f"{name}@end_scale", np.array(grid.scale, np.float32))
        zero = constant(self.graph, f"{name}@end_zero", np.array(grid.zero_point, grid.dtype))
        return grid, [scale, zero]

    def _grid(self, quantize: NodeProto) -> Grid:
        return grid_at(quantize, self.weights)


def grid_at(node: NodeProto, weights: Mapping[str, TensorProto]) -> Grid:
    """Read the grid of a QuantizeLinear or DequantizeLinear that has one for the whole tensor."""
    scale, zero = (values(weights[name]) for name in node.input[1:3])
    return Grid(float(scale), int(zero), str(zero.dtype))


def _held(spec: TensorSpec, grid: Grid | None) -> TensorSpec:
    if grid is None:
        return spec
    return replace(spec, file_dtype=grid.dtype, scale=grid.scale, zero_point=grid.zero_point)


def read_ends(proto: ModelProto, signature: Signature) -> Signature:
    """Return the signature with the grids of the ends that the graph itself (de)quantizes."""
    weights = {weight.name: weight for weight in proto.graph.initializer}
    grids: dict[str, Grid] = {}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) == 3:
            means = [weights.get(name) for name in node.input[1:]]
            if all(one is not None and not one.dims for one in means):
                end = node.input[0] if node.op_type[0] == "D" else node.output[0]
                grids[end] = grid_at(node, weights)
    return Signature(
        tuple(_float(_held(spec, grids.get(spec.name))) for spec in signature.inputs),
        tuple(_float(_held(spec, grids.get(spec.name))) for spec in signature.outputs),
    )


def _float(spec: TensorSpec) -> TensorSpec:
    return spec if spec.scale is None else replace(spec, dtype="float32")
