"""Take a QDQ ONNX apart into the float graph and the ranges of its tensors.

A QDQ ONNX is what quantization-aware training exports: QuantizeLinear and DequantizeLinear around
float operators. The converter to TFLite drops or keeps such pairs silently (onnx2tf#582), so both
runtimes get the float graph, with the weights as they were trained, and the ranges.

The rules, cited in the code:

L1. A dequantized constant becomes (q - zero point) · scale in float32. One that is quantized first
    is rounded and saturated first.
L2. Quantizing and dequantizing an activation is removed, and its tensor's range is recorded:
    (low - zero point) · scale to (high - zero point) · scale, over the integers it may have.
L3. A tensor that is quantized in several ways gets the range that contains them all.
L4. What lies between a quantization and a dequantization (a reshape, a maximum) runs in float.
L5. A convolution, product or sum that is quantized to nothing below zero had a ReLU that the
    quantizer left to saturation (ONNX Runtime's does): it is written back; up to 6, a ReLU6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph.index import GraphIndex, replace_nodes, uses, values_of
from torchopt2edge.quantize.graph.op_types import (
    LAYERS,
    QDQ,
    Trait,
    having,
    is_quantized,
    name_of,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = np.ndarray[Any, Any]
Range = tuple[float, float]

# L5: what both runtimes fuse an activation function into.
FUSES_ACTIVATION = LAYERS | having(Trait.ARITHMETIC)


def is_qdq(proto: ModelProto) -> bool:
    """Tell whether a graph has QuantizeLinear or DequantizeLinear nodes, as trained ones do."""
    return any(node.op_type in QDQ for node in proto.graph.node)


def split(proto: ModelProto, artifact: Path | None = None) -> tuple[ModelProto, dict[str, Range]]:
    """Return the float graph of a QDQ ONNX, and the ranges of its tensors, by rules L1 to L5.

    The names of inputs, outputs and of what the operators compute stay.

    Args:
        proto: a QDQ graph, which is left unchanged.
        artifact: the file that it is from, for error messages.

    Returns:
        The float graph, and (min, max) by tensor.

    Raises:
        ExportError: a scale is not a constant, or the graph computes in integers (QLinearConv …).
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _refuse_integers(copy.graph, artifact)
    reader = _Reader(copy, artifact)
    reader.run()
    return copy, reader.bounds


class _Reader:
    """Takes one graph apart in place."""

    def __init__(self, proto: ModelProto, artifact: Path | None) -> None:
        index = GraphIndex.of(proto)
        self.graph, self.artifact = proto.graph, artifact
        self.producers, self.uses = index.producers, index.uses
        self.constants = arrays_of(proto.graph)
        self.same: dict[str, str] = {}  # by a tensor that was removed, the one with its values
        self.limits: dict[str, Range] = {}  # of a tensor of integers, if narrower than its type
        self.bounds: dict[str, Range] = {}
        self.dequantized: dict[str, Array] = {}
        self.saturated: dict[str, float] = {}  # by what was a ReLU, its upper end

    def run(self) -> None:
        """Walk the nodes in order, which ONNX keeps topological."""
        kept: list[NodeProto] = []
        for node in self.graph.node:
            _rename(node, self.same)
            if node.op_type in QDQ:
                self._remove_quantization(node)
            elif not self._remove_integer_clip(node):
                kept.append(node)
        nodes = [new for node in kept for new in (node, *self._written_activation(node))]
        replace_nodes(self.graph, nodes)
        self._restore_outputs()
        self._clean_up()

    def _remove_quantization(self, node: NodeProto) -> None:
        """L1 and L2."""
        source, target = node.input[0], node.output[0]
        scale, zero = self._params(node)
        constant = self.constants.get(source)
        if constant is not None:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            block = next((a.i for a in node.attribute if a.name == "block_size"), 0)
            scale, zero = (_along(value, constant, axis, block) for value in (scale, zero))
            if node.op_type == "QuantizeLinear":
                self.constants[target] = _quantized(constant, scale, zero)
            else:
                real = (constant.astype(np.int64) - zero) * scale.astype(np.float32)
                self.constants[target] = self.dequantized[target] = real.astype(np.float32)
            return
        self.same[target] = source
        if source in self.bounds and len(node.input) < 3:
            return  # the type of the integers is known from the other node
        low, high = self.limits.pop(source, _limits(zero.dtype))
        low, high = (float((end - float(zero.min())) * scale.max()) for end in (low, high))
        if low == 0 and self._fuses_activation(source):
            self.saturated[source] = high
        before = self.bounds.get(source, (low, high))
        self.bounds[source] = (min(low, before[0]), max(high, before[1]))  # L3

    def _fuses_activation(self, tensor: str) -> bool:
        producer = self.producers.get(tensor)
        fuses = producer is not None and producer.op_type in FUSES_ACTIVATION
        return fuses and self.uses[tensor] == 1

    def _written_activation(self, node: NodeProto) -> list[NodeProto]:
        """L5."""
        from onnx import helper, numpy_helper

        name = node.output[0] if node.output else ""
        if name not in self.saturated:
            return []
        node.output[0] = f"{name}/linear"
        if abs(self.saturated[name] - 6) > 6 / 255:
            return [helper.make_node("Relu", [node.output[0]], [name], name=f"{name}/relu")]
        limits = {f"{name}/low": 0.0, f"{name}/high": 6.0}
        for key, value in limits.items():
            self.graph.initializer.append(
                numpy_helper.from_array(np.full((), value, np.float32), key)
            )
        return [helper.make_node("Clip", [node.output[0], *limits], [name], name=f"{name}/relu6")]

    def _params(self, node: NodeProto) -> tuple[Array, Array]:
        """Return scale and zero point; the dtype of the zero point is that of the integers."""
        import onnx

        scale = self.constants.get(node.input[1])
        kind = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), 0)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.UINT8)
        constant = self.constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and constant is not None:
            dtype = constant.dtype
        zero: Array | None = np.zeros((), dtype)
        if len(node.input) > 2 and node.input[2]:
            zero = self.constants.get(node.input[2])
        if scale is None or zero is None:
            raise ExportError(
                f"the scale of {name_of(node)!r} is not a constant",
                artifact=self.artifact,
                hint="export static quantization, with scales and zero points as constants",
            )
        return scale, zero

    def _remove_integer_clip(self, node: NodeProto) -> bool:
        """Remove a Clip of integers: exporters write narrower ranges (-127 … 127) that way."""
        limits = [self.constants.get(name) for name in node.input[1:]]
        known = all(limit is not None and limit.dtype.kind != "f" for limit in limits)
        if node.op_type != "Clip" or not known or len(limits) != 2:
            return False
        source = node.input[0]
        if source not in self.bounds and source not in self.constants:
            return False
        low, high = (float(limit) for limit in limits if limit is not None)
        if source in self.constants:
            self.constants[node.output[0]] = np.clip(self.constants[source], int(low), int(high))
            return True
        self.same[node.output[0]] = source
        self.bounds.pop(source)
        self.limits[source] = (low, high)
        return True

    def _restore_outputs(self) -> None:
        """Give a tensor the graph's output name when a removed pair had it; in float."""
        import onnx

        names: dict[str, str] = {}
        outputs = {value.name for value in self.graph.output}
        inputs = {value.name for value in self.graph.input}
        for value in self.graph.output:
            source = self.same.get(value.name)
            if source is None:
                continue
            if source in names or source in inputs or source in outputs:
                self.graph.node.append(onnx.helper.make_node("Identity", [source], [value.name]))
            else:
                names[source] = value.name
        for node in self.graph.node:
            _rename(node, names)
            for place, name in enumerate(node.output):
                node.output[place] = names.get(name, name)
        self.bounds = {names.get(name, name): ends for name, ends in self.bounds.items()}

    def _clean_up(self) -> None:
        """Add the weights, drop what nothing reads, and let types be inferred again."""
        import onnx

        read = set(uses(self.graph))
        nodes = [n for n in self.graph.node if n.op_type != "Constant" or n.output[0] in read]
        unchanged = read - self.dequantized.keys()
        weights = [weight for weight in self.graph.initializer if weight.name in unchanged]
        weights += [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in self.dequantized.items()
            if name in read
        ]
        inputs = [v for v in self.graph.input if v.name in read or v.name not in self.constants]
        for field, kept in (("node", nodes), ("initializer", weights), ("input", inputs)):
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(kept)
        self.graph.ClearField("value_info")
        self.graph.ClearField("quantization_annotation")
        for value in (*self.graph.input, *self.graph.output):
            if value.name in self.bounds:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def arrays_of(graph: GraphProto) -> dict[str, Array]:
    """Return the values of the constants of a graph, under other names (Identity) too."""
    arrays = {weight.name: values_of(weight) for weight in graph.initializer}
    for node in graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            arrays[node.output[0]] = values_of(value.t)
        elif node.op_type == "Identity" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    return arrays


def _refuse_integers(graph: GraphProto, artifact: Path | None) -> None:
    op_types = {node.op_type for node in graph.node}
    integer = sorted(op for op in op_types - QDQ if is_quantized(op))
    if integer:
        raise ExportError(
            f"this ONNX computes in integers ({', '.join(integer)})",
            artifact=artifact,
            hint="export it in the QDQ format, before any runtime's optimizer ran",
        )


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Read other tensors in a node and in its subgraphs."""
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, names)
        for value in attribute.g.output:
            value.name = names.get(value.name, value.name)


def _along(value: Array, tensor: Array, axis: int, block: int) -> Array:
    """Shape a scale or zero point so that it broadcasts over the tensor."""
    if value.size == 1:
        return value.reshape(())
    if block:
        repeated = np.repeat(value, block, axis=axis)
        return np.take(repeated, range(tensor.shape[axis]), axis=axis)
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return value.reshape(shape)


def _quantized(value: Array, scale: Array, zero: Array) -> Array:
    low, high = _limits(zero.dtype)
    integers = np.rint(value.astype(np.float64) / scale) + zero.astype(np.int64)
    return np.asarray(np.clip(integers, low, high).astype(zero.dtype))


def _limits(dtype: Any) -> tuple[int, int]:
    """Return the limits of an integer type; numpy does not know those of 4 bits."""
    name = str(dtype)
    if name in ("int4", "uint4"):
        return (-8, 7) if name == "int4" else (0, 15)
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
