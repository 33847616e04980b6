"""Take a quantized ONNX apart into the float graph and the ranges that training put into it.

A QDQ ONNX is what quantization-aware training exports: QuantizeLinear and DequantizeLinear around
float operations. The converter to TFLite drops or keeps such pairs without a word (onnx2tf#582),
so both runtimes get the float graph, with the weights on their trained grid, and the ranges.

The rules, cited in the code:

L1. A dequantized constant becomes (q - zero point) · scale in float32; one that is quantized
    first is rounded and saturated first.
L2. Quantizing and dequantizing an activation becomes nothing; its tensor's range is noted:
    (low - zero point) · scale to (high - zero point) · scale, over the integers it may take.
L3. A tensor that was quantized in several ways gets the range that holds them all.
L4. What lies between a quantization and a dequantization (a reshape, a maximum) runs in float.
L5. A convolution, a product or a sum that is quantized to nothing below zero had a ReLU that the
    quantizer left to saturation (ONNX Runtime's does): it is written back; up to 6, a ReLU6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import ExportError
from torchopt2edge.types import Manifest, Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    Array = np.ndarray[Any, Any]
    Bounds = dict[str, tuple[float, float]]

ORIGIN = "learned:qat"
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ACTIVATIONS = frozenset({"Relu", "Clip"})
# They move values and make none: their outputs have their input's range, and the other way round.
_MOVING = frozenset(
    "Reshape Flatten Transpose Squeeze Unsqueeze Identity MaxPool Slice Split Gather Expand Tile "
    "DepthToSpace SpaceToDepth".split()
)
_CHOOSING = frozenset({"Slice", "Split", "Gather", "MaxPool"})  # not all of the input comes out
_FUSED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div"})


def is_qdq(proto: ModelProto) -> bool:
    """Tell whether a graph holds QuantizeLinear or DequantizeLinear, as trained ones do."""
    return any(node.op_type in PAIR for node in proto.graph.node)


def split(qdq: Path | ModelProto) -> tuple[ModelProto, Bounds]:
    """Return the float graph of a QDQ ONNX, and the bounds of its tensors, by the rules.

    Names of inputs, outputs and of what the operations make are kept.

    Raises:
        ExportError: a scale is not a constant, or the graph computes in integers (QLinearConv …).
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(onnx.load(str(qdq)) if isinstance(qdq, Path) else qdq)
    _refuse_integers(proto.graph, qdq)
    split_ = _Split(proto.graph, qdq)
    split_.run()
    return proto, split_.bounds


class _Split:
    """One graph being taken apart in place."""

    def __init__(self, graph: GraphProto, source: object) -> None:
        self.graph = graph
        self.source = source if isinstance(source, Path) else None
        self.constants = _constants(graph)
        self.same: dict[str, str] = {}  # a tensor that went → the one that holds its values
        self.limits: dict[str, tuple[float, float]] = {}  # of a tensor of integers, if narrower
        self.bounds: Bounds = {}
        self.made: dict[str, Array] = {}
        self.reads = Counter(_reads(graph))
        self.makers = {name: node for node in graph.node for name in node.output}
        self.saturated: dict[str, float] = {}  # what was a ReLU → its upper end

    def run(self) -> None:
        """Walk the nodes in order, which ONNX keeps topological."""
        kept: list[NodeProto] = []
        for node in self.graph.node:
            _rename(node, self.same)
            if node.op_type in PAIR:
                self._pass(node)
            elif not self._narrowed(node):
                kept.append(node)
        del self.graph.node[:]
        self.graph.node.extend(made for node in kept for made in (node, *self._activated(node)))
        self._name_outputs()
        self._tidy()

    def _pass(self, node: NodeProto) -> None:
        """L1 and L2."""
        source, target = node.input[0], node.output[0]
        scale, zero = self._grid(node)
        known = self.constants.get(source)
        if known is not None:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            block = next((a.i for a in node.attribute if a.name == "block_size"), 0)
            scale, zero = (_along(value, known, axis, block) for value in (scale, zero))
            if node.op_type == "QuantizeLinear":
                made = _quantized(known, scale, zero)
            else:
                made = (known.astype(np.int64) - zero) * scale.astype(np.float32)
                made = made.astype(np.float32)
                self.made[target] = made
            self.constants[target] = made
            return
        self.same[target] = source
        if source in self.bounds and len(node.input) < 3:
            return  # the integers' type is the other node's to tell
        low, high = self.limits.pop(source, _limits(zero.dtype))
        low, high = (float((end - float(zero.min())) * scale.max()) for end in (low, high))
        maker = self.makers.get(source)
        if low == 0 and maker is not None and maker.op_type in _FUSED and self.reads[source] == 1:
            self.saturated[source] = high
        before = self.bounds.get(source, (low, high))
        self.bounds[source] = (min(low, before[0]), max(high, before[1]))  # L3

    def _activated(self, node: NodeProto) -> list[NodeProto]:
        """L5."""
        from onnx import helper, numpy_helper

        name = node.output[0] if node.output else ""
        if name not in self.saturated:
            return []
        node.output[0] = f"{name}/linear"
        if abs(self.saturated[name] - 6) > 6 / 255:
            return [helper.make_node("Relu", [node.output[0]], [name], name=f"{name}/relu")]
        ends = {f"{name}/low": 0.0, f"{name}/high": 6.0}
        for key, value in ends.items():
            self.graph.initializer.append(
                numpy_helper.from_array(np.full((), value, np.float32), key)
            )
        return [helper.make_node("Clip", [node.output[0], *ends], [name], name=f"{name}/relu6")]

    def _grid(self, node: NodeProto) -> tuple[Array, Array]:
        """Return scale and zero point; the latter's dtype is that of the integers."""
        import onnx

        scale = self.constants.get(node.input[1])
        kind = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), 0)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.UINT8)
        known = self.constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and known is not None:
            dtype = known.dtype
        zero: Array | None = np.zeros((), dtype)
        if len(node.input) > 2 and node.input[2]:
            zero = self.constants.get(node.input[2])
        if scale is None or zero is None:
            raise ExportError(
                f"the scale of {node.name or node.output[0]!r} is not a constant",
                artifact=self.source,
                hint="export static quantization, with scales and zero points as constants",
            )
        return scale, zero

    def _narrowed(self, node: NodeProto) -> bool:
        """Take out a Clip of integers: exporters write narrower grids (-127 … 127) that way."""
        ends = [self.constants.get(name) for name in node.input[1:]]
        if node.op_type != "Clip" or any(end is None or end.dtype.kind == "f" for end in ends):
            return False
        if len(ends) != 2 or node.input[0] not in {*self.bounds, *self.constants}:
            return False
        source, (low, high) = node.input[0], (float(end) for end in ends if end is not None)
        if source in self.constants:
            self.constants[node.output[0]] = np.clip(self.constants[source], int(low), int(high))
            return True
        self.same[node.output[0]] = source
        self.bounds.pop(source)
        self.limits[source] = (low, high)
        return True

    def _name_outputs(self) -> None:
        """Give a tensor the graph's output name when that was a pair's; in float."""
        import onnx

        names = {}
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
            for index, name in enumerate(node.output):
                node.output[index] = names.get(name, name)
        self.bounds = {names.get(name, name): ends for name, ends in self.bounds.items()}

    def _tidy(self) -> None:
        """Add the weights, drop what nobody reads, and let types be inferred anew."""
        import onnx

        read = set(_reads(self.graph))
        nodes = [n for n in self.graph.node if n.op_type != "Constant" or n.output[0] in read]
        weights = [w for w in self.graph.initializer if w.name in read - self.made.keys()]
        weights += [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in self.made.items()
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


def unquantize(qdq: Path, file: Path) -> Ranges:
    """Write the float graph of a QDQ ONNX to ``file`` and return what it had learned.

    Raises:
        ExportError: it cannot be taken apart.
    """
    import onnx

    proto, bounds = split(qdq)
    onnx.save(proto, file)
    return learned(bounds)


def learned(bounds: Mapping[str, tuple[float, float]], seed: int | None = None) -> Ranges:
    """Return trained bounds as ranges; the training samples are not listed one by one."""
    return Ranges(dict(bounds), ORIGIN, Manifest("train", (), seed=seed))


def carry(ranges: Ranges, graph: Path) -> Ranges:
    """Keep the bounds whose tensors the prepared graph has, and give them to what shares them.

    What is fused before a Relu or a Clip takes the latter's bounds; what moves values has the
    bounds of what it moves, and so do the parts of a concatenation that are read by it alone.
    """
    import onnx

    proto = onnx.load(str(graph))
    nodes = proto.graph.node
    known = {value.name for value in proto.graph.input}
    known |= {name for node in nodes for name in node.output}
    bounds = {name: ends for name, ends in ranges.bounds.items() if name in known}
    constants, reads = _constants(proto.graph), Counter(_reads(proto.graph))
    makers = {name: node for node in nodes for name in node.output}
    for node in nodes:  # forwards: what is moved
        if _moves(node, constants) and node.input[0] in bounds:
            bounds |= {name: bounds[node.input[0]] for name in node.output if name not in bounds}
    for node in reversed(nodes):  # backwards: what is fused, moved or joined, and read only there
        for name in _shared(node, makers, constants):
            alone = name in makers and reads[name] == 1
            if alone and name not in bounds and node.output[0] in bounds:
                bounds[name] = bounds[node.output[0]]
    return replace(ranges, bounds=bounds)


def _moves(node: NodeProto, constants: Mapping[str, Array]) -> bool:
    """Tell whether a node makes no values but its input's, and zeros."""
    modes = {a.name: a.s for a in node.attribute}
    if node.op_type == "Pad" and modes.get("mode", b"constant") == b"constant":
        filled = node.input[2] if len(node.input) > 2 else ""
        return not filled or (filled in constants and not constants[filled].any())
    if node.op_type == "Resize":
        return bool(modes.get("mode", b"nearest") == b"nearest")
    return node.op_type in _MOVING


def _shared(
    node: NodeProto, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]
) -> list[str]:
    """Name the inputs that have the range of what ``node`` makes, when nobody else reads them."""
    if node.op_type == "Concat":
        return list(node.input)
    if _moves(node, constants):
        return [] if node.op_type in _CHOOSING else list(node.input[:1])
    before = makers.get(node.input[0]) if node.input else None
    fused = node.op_type in _ACTIVATIONS and before is not None and before.op_type in _FUSED
    return list(node.input[:1]) if fused else []


def merge(learned: Ranges, calibrated: Ranges) -> Ranges:
    """Return the learned bounds, and the calibrated ones of the tensors that were not trained.

    The manifest is that of the calibration; facts count the learned and name the calibrated.
    """
    rest = [name for name in calibrated.bounds if name not in learned.bounds]
    facts = {
        **calibrated.facts,
        "learned": len(learned.bounds),
        "calibrated": rest,
        "calibrated_by": calibrated.origin,
    }
    excluded = tuple(dict.fromkeys((*learned.excluded, *calibrated.excluded)))
    bounds = {**calibrated.bounds, **learned.bounds}
    manifest = replace(calibrated.manifest, seed=learned.manifest.seed)
    return Ranges(bounds, learned.origin, manifest, excluded, facts)


def _refuse_integers(graph: GraphProto, source: object) -> None:
    wrong = sorted(
        {
            node.op_type
            for node in graph.node
            if node.op_type.startswith(("QLinear", "QGemm", "QAttention"))
            or node.op_type in ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
        }
    )
    if wrong:
        raise ExportError(
            f"this ONNX computes in integers ({', '.join(wrong)})",
            artifact=source if isinstance(source, Path) else None,
            hint="export it in the QDQ format, before any runtime's optimizer ran",
        )


def _constants(graph: GraphProto) -> dict[str, Array]:
    from onnx import numpy_helper

    found = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    for node in graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            found[node.output[0]] = numpy_helper.to_array(value.t)
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Read other tensors in a node and in its subgraphs."""
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, names)
        for value in attribute.g.output:
            value.name = names.get(value.name, value.name)


def _reads(graph: GraphProto) -> Iterator[str]:
    """Name what a graph reads, its subgraphs too, and what it gives out."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _reads(attribute.g)


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
    codes = np.rint(value.astype(np.float64) / scale) + zero.astype(np.int64)
    made: Array = np.clip(codes, low, high).astype(zero.dtype)
    return made


def _limits(dtype: Any) -> tuple[int, int]:
    """Return the ends of an integer type; those of 4 bits are not numpy's own."""
    name = str(dtype)
    if name in ("int4", "uint4"):
        return (-8, 7) if name == "int4" else (0, 15)
    ends = np.iinfo(dtype)
    return int(ends.min), int(ends.max)
