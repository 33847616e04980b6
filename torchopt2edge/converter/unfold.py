"""Write PixelShuffle as TensorFlow has it, before onnx2tf sees it.

PyTorch keeps the pixels of one channel together (``DepthToSpace`` in mode CRD), TensorFlow the
channels of one pixel (DCR). Behind an addition onnx2tf 1.29.24 takes the layout for NCHW, and the
image comes out scrambled: so the two sides are unfolded first and added then. And it spends several
operators on the order of CRD: so the convolutions that make the channels make them in DCR's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]

_PASS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Identity")
_JOIN = ("Add", "Mul", "Sub")


def unfold_in_place(model: onnx.ModelProto) -> int:
    """Unfold before adding, and turn every CRD that can be into DCR; return how many were."""
    from onnx import shape_inference

    if any(node.op_type == "DepthToSpace" for node in model.graph.node):
        model.CopyFrom(shape_inference.infer_shapes(model))
    while _hoisted(model.graph):
        pass
    turned = 0
    for node in model.graph.node:
        if node.op_type != "DepthToSpace" or _attribute(node, "mode") != b"CRD":
            continue
        makers = _Makers(model.graph)
        if makers.collect(node.input[0]):
            makers.turn(int(_attribute(node, "blocksize")))
            for attribute in node.attribute:
                if attribute.name == "mode":
                    attribute.s = b"DCR"
            turned += 1
    return turned


def _hoisted(graph: onnx.GraphProto) -> bool:
    """Move one unfolding in front of the sum it comes behind; tell whether there was one."""
    from onnx import helper

    made = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    known = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
    }
    readers = [name for node in graph.node for name in node.input]
    readers += [value.name for value in graph.output]
    for node in graph.node:
        join = made.get(node.input[0]) if node.op_type == "DepthToSpace" else None
        if join is None or join.op_type not in _JOIN or readers.count(join.output[0]) != 1:
            continue
        shapes = {known.get(name) for name in join.input}
        if any(name in constants for name in join.input) or len(shapes) > 1 or None in shapes:
            continue
        parts = [f"{node.output[0]}_{side}" for side in ("a", "b")]
        how = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        unfolded = [
            helper.make_node("DepthToSpace", [source], [part], name=part, **how)
            for source, part in zip(join.input, parts, strict=True)
        ]
        summed = helper.make_node(join.op_type, parts, list(node.output), name=node.name)
        place = list(graph.node).index(node)
        before = [one for one in list(graph.node)[:place] if one is not join]
        after = list(graph.node)[place + 1 :]
        nodes = [_copy(one) for one in (*before, *unfolded, summed, *after)]
        del graph.node[:]
        graph.node.extend(nodes)
        return True
    return False


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    return twin


class _Makers:
    """The constants whose rows are the channels of a tensor that nobody else reads."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.made = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, int] = {value.name: 1 for value in graph.output}
        for node in graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.rows: dict[str, int] = {}  # constant → the axis that runs over the channels

    def collect(self, name: str) -> bool:
        """Find what makes the tensor's channels; False where their order cannot be changed."""
        node = self.made.get(name)
        if node is None or self.readers.get(name, 0) != 1:
            return False
        if node.op_type in _PASS:
            return self.collect(node.input[0])
        if node.op_type in _JOIN:
            return all(self._joined(one) for one in node.input)
        if node.op_type != "Conv" or (_attribute(node, "group") or 1) != 1:
            return False
        return all(self._own(one, 0) for one in node.input[1:] if one)

    def turn(self, block: int) -> None:
        """Put the channels that were counted (channel, pixel) into the order (pixel, channel)."""
        from onnx import numpy_helper

        for name, axis in self.rows.items():
            values = numpy_helper.to_array(self.constants[name])
            count = values.shape[axis]
            order = np.arange(count).reshape(-1, block**2).T.reshape(-1)
            turned = np.ascontiguousarray(np.take(values, order, axis))
            self.constants[name].CopyFrom(numpy_helper.from_array(turned, name))

    def _joined(self, name: str) -> bool:
        tensor = self.constants.get(name)
        if tensor is None:
            return self.collect(name)
        shape = [1] * (4 - len(tensor.dims)) + list(tensor.dims)
        if shape[1] == 1:
            return True  # the same for every channel
        return len(tensor.dims) >= 3 and self._own(name, len(tensor.dims) - 3)

    def _own(self, name: str, axis: int) -> bool:
        if name not in self.constants or self.readers.get(name, 0) != 1:
            return False
        self.rows[name] = axis
        return True


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return None
