"""Write operators that onnx2tf or TensorFlow Lite gets wrong, or has not, in ones that they share.

Each is the same function in real arithmetic:

R1. ``GroupNormalization``, its spelling by Reshape, InstanceNormalization and Reshape, and
    ``LayerNormalization`` over channels and pixels: means are global poolings and a 1×1 convolution
    that averages the channels of a group. (In the spelling a tensor [N, G, L] stands between, whose
    layout onnx2tf cannot always tell where C = H or C = W.)
R2. ``ConvTranspose`` with dilations: the zeros between the weights are written out. TensorFlow Lite
    has no dilated one.
R3. Grouped ``ConvTranspose``: the zeros between the groups are written out, up to
    `MOST_DENSE_MACS`. TensorFlow Lite has no grouped one, and onnx2tf spells one operator per
    group.
R4. ``MaxPool`` with dilations: the maximum of shifted slices, along the rows and then the columns.
    Only without padding, or where zeros can be padded because no value is below 0.
R5. ``Softplus``: max(x, 0) + log(1 + exp(-|x|)), which does not overflow. TensorFlow Lite's
    log(1 + exp(x)) is infinite from 89 on. A second try, as R1's spelling is.

Also copied beside ``child.py``: numpy and onnx only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    Array = np.ndarray[Any, Any]

NOT_NEGATIVE = frozenset("Relu Sigmoid HardSigmoid Softmax Abs Exp Softplus".split())
MOST_DENSE_MACS = 200_000_000
Shape = tuple[int, ...]


class Writer:
    """Collects the nodes and constants that replace one node, under names of their own."""

    def __init__(self, stem: str) -> None:
        self.stem, self.nodes, self.constants = stem, list[Any](), list[Any]()

    def constant(self, value: Array | np.generic) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = f"{self.stem}_c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, *given: str, to: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = to or f"{self.stem}_n{len(self.nodes)}"
        node = helper.make_node(op_type, list(given), [name], name=f"{name}_node", **attributes)
        self.nodes.append(node)
        return name


class View:
    """The constants, shapes and producers of a graph with known shapes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.shapes: dict[str, Shape] = {w.name: tuple(w.dims) for w in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                self.shapes[value.name] = tuple(dim.dim_value for dim in dims)
        self.makers = {name: node for node in model.graph.node for name in node.output}
        held = {weight.name: weight for weight in model.graph.initializer}
        held |= {
            node.output[0]: node.attribute[0].t
            for node in model.graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self._held = held

    def value(self, name: str) -> Array | None:
        """Return a constant's values, None for any other tensor."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._held[name])) if name in self._held else None


def respell(model: onnx.ModelProto, norms: bool = False) -> int:
    """Apply the rules in place; return how many nodes were replaced.

    With ``norms`` R1 and R5 are applied to what onnx2tf has operators for too: where it gets them
    wrong. Otherwise its tensors are those of the graph, and ranges can be carried over.
    """
    view, count = View(model), 0
    for node in list(model.graph.node):
        rule = RULES.get(node.op_type) or (NORMS.get(node.op_type) if norms else None)
        if rule is None:
            continue
        writer = Writer(f"{node.output[0]}_edge")
        if rule(node, view, writer):
            place = list(model.graph.node).index(node)
            model.graph.node.remove(node)
            for offset, made in enumerate(writer.nodes):
                model.graph.node.insert(place + offset, made)
            model.graph.initializer.extend(writer.constants)
            count += 1
    if count:
        _drop_unread(model)
    return count


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove the nodes and constants that nothing reads any more, and all inner shapes."""
    ends = {value.name for value in model.graph.output}
    while True:
        read = ends | {name for node in model.graph.node for name in node.input}
        unread = [node for node in model.graph.node if not read & set(node.output)]
        if not unread:
            break
        for node in unread:
            model.graph.node.remove(node)
    kept = [weight for weight in model.graph.initializer if weight.name in read]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend(kept)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _groups(node: Any, view: View, writer: Writer) -> bool:
    """R1, the operator itself."""
    shape = view.shapes.get(node.input[0], ())
    scale, bias = (view.value(name) for name in node.input[1:3])
    if len(shape) != 4 or scale is None or bias is None:
        return False
    its, channels = _attributes(node), shape[1]
    groups = int(its["num_groups"])
    centred = _normalized(node.input[0], channels, groups, its.get("epsilon", 1e-5), writer)
    each = channels // len(scale)  # opset 18 has one scale per group, opset 21 one per channel
    wide = [np.repeat(one, each).reshape(1, channels, 1, 1) for one in (scale, bias)]
    scaled = writer.node("Mul", centred, writer.constant(wide[0]))
    writer.node("Add", scaled, writer.constant(wide[1]), to=node.output[0])
    return True


def _spelled_groups(node: Any, view: View, writer: Writer) -> bool:
    """R1, its spelling: this is the last of the three nodes, the Reshape back."""
    inner = view.makers.get(node.input[0])
    if inner is None or inner.op_type != "InstanceNormalization":
        return False
    first = view.makers.get(inner.input[0])
    scale, bias = (view.value(name) for name in inner.input[1:3])
    if first is None or first.op_type != "Reshape" or scale is None or bias is None:
        return False
    given, between = view.shapes.get(first.input[0], ()), view.shapes.get(inner.input[0], ())
    plain = bool((scale == 1).all() and (bias == 0).all())
    if len(given) != 4 or len(between) != 3 or view.shapes.get(node.output[0]) != given:
        return False
    if not plain or given[0] != between[0] or given[1] % between[1]:
        return False
    epsilon = _attributes(inner).get("epsilon", 1e-5)
    source = first.input[0]
    _normalized(source, given[1], between[1], epsilon, writer, to=node.output[0])
    return True


def _layer(node: Any, view: View, writer: Writer) -> bool:
    """R1, over channels and pixels."""
    shape, its = view.shapes.get(node.input[0], ()), _attributes(node)
    constants = [view.value(name) for name in node.input[1:]]
    if len(shape) != 4 or its.get("axis", -1) not in (1, -3) or len(node.output) > 1:
        return False
    if any(value is None for value in constants):
        return False
    epsilon, last = its.get("epsilon", 1e-5), node.output[0]
    steps = list(zip(("Mul", "Add"), constants, strict=False))
    made = _normalized(node.input[0], shape[1], 1, epsilon, writer, to=None if steps else last)
    for at, (op_type, value) in enumerate(steps):
        given = writer.constant(np.asarray(value)[None])
        made = writer.node(op_type, made, given, to=last if at == len(steps) - 1 else None)
    return True


def _normalized(
    source: str, channels: int, groups: int, epsilon: float, writer: Writer, to: str | None = None
) -> str:
    """Write (x - mean) ÷ √(variance + ε), both over the pixels and channels of a group."""
    size = channels // groups
    average = np.kron(np.eye(groups), np.full((size, size), 1 / size)).astype(np.float32)
    matrix = writer.constant(average[:, :, None, None])

    def mean(name: str) -> str:
        pooled = writer.node("GlobalAveragePool", name)
        return writer.node("Conv", pooled, matrix, kernel_shape=[1, 1])

    centred = writer.node("Sub", source, mean(source))
    variance = mean(writer.node("Mul", centred, centred))
    guarded = writer.node("Add", variance, writer.constant(np.float32(epsilon)))
    return writer.node("Div", centred, writer.node("Sqrt", guarded), to=to)


def _transposed(node: Any, view: View, writer: Writer) -> bool:
    """R2, R3."""
    its, weight = _attributes(node), view.value(node.input[1])
    shape = view.shapes.get(node.input[0], ())
    if weight is None or weight.ndim != 4 or len(shape) != 4:
        return False
    dilations, group = list(its.get("dilations", (1, 1))), int(its.get("group", 1))
    if dilations == [1, 1] and group == 1:
        return False
    wide = _block_diagonal(_spread(weight, dilations), group)
    if group > 1 and wide.size * shape[2] * shape[3] > MOST_DENSE_MACS:
        return False
    kept = {key: value for key, value in its.items() if key not in ("dilations", "group")}
    kept["kernel_shape"] = list(wide.shape[2:])  # onnx2tf does not read it off the weights
    given = [node.input[0], writer.constant(wide), *node.input[2:]]
    writer.node("ConvTranspose", *given, to=node.output[0], **kept)
    return True


def _block_diagonal(weight: Array, group: int) -> Array:
    """Write out the zeros between groups: [in, out ÷ group, …] becomes [in, out, …]."""
    inputs, outputs = weight.shape[0] // group, weight.shape[1]
    dense = np.zeros((weight.shape[0], outputs * group, *weight.shape[2:]), weight.dtype)
    for at in range(group):
        rows = slice(at * inputs, (at + 1) * inputs)
        dense[rows, at * outputs : (at + 1) * outputs] = weight[rows]
    return dense


def _spread(weight: Array, dilations: list[int]) -> Array:
    """Write out the zeros between the weights [in, out, rows, columns]."""
    rows, columns = (
        (size - 1) * d + 1 for size, d in zip(weight.shape[2:], dilations, strict=True)
    )
    wide = np.zeros((*weight.shape[:2], rows, columns), weight.dtype)
    wide[:, :, :: dilations[0], :: dilations[1]] = weight
    return wide


def _softplus(node: Any, view: View, writer: Writer) -> bool:
    """R5."""
    source = node.input[0]
    falling = writer.node("Exp", writer.node("Neg", writer.node("Abs", source)))
    rest = writer.node("Log", writer.node("Add", falling, writer.constant(np.float32(1))))
    writer.node("Add", writer.node("Relu", source), rest, to=node.output[0])
    return True


def _pool(node: Any, view: View, writer: Writer) -> bool:
    """R4."""
    its, shape = _attributes(node), view.shapes.get(node.input[0], ())
    target = view.shapes.get(node.output[0], ())
    dilations, pads = list(its.get("dilations", (1, 1))), list(its.get("pads", (0, 0, 0, 0)))
    if len(shape) != 4 or len(target) != 4 or dilations == [1, 1] or len(node.output) > 1:
        return False
    maker, source = view.makers.get(node.input[0]), node.input[0]
    if any(pads):
        if maker is None or maker.op_type not in NOT_NEGATIVE:
            return False
        around = writer.constant(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
        source = writer.node("Pad", source, around)
    for axis in (2, 3):
        strides, at = list(its.get("strides", (1, 1))), axis - 2
        span = (target[axis] - 1) * strides[at] + 1
        if (its["kernel_shape"][at] - 1) * dilations[at] + span > (
            shape[axis] + pads[at] + pads[2 + at]
        ):
            return False  # ceil_mode: the last window reaches past the padding
        starts = [step * dilations[at] for step in range(its["kernel_shape"][at])]
        parts = [_slice(source, axis, start, span, strides[at], writer) for start in starts]
        last = axis == 3
        source = writer.node("Max", *parts, to=node.output[0] if last else None)
    return True


def _slice(source: str, axis: int, start: int, span: int, step: int, writer: Writer) -> str:
    values = ([start], [start + span], [axis], [step])
    return writer.node("Slice", source, *(writer.constant(np.array(one)) for one in values))


RULES: dict[str, Callable[[Any, View, Writer], bool]] = {
    "GroupNormalization": _groups,
    "ConvTranspose": _transposed,
    "MaxPool": _pool,
}
NORMS: dict[str, Callable[[Any, View, Writer], bool]] = {
    "Reshape": _spelled_groups,
    "LayerNormalization": _layer,
    "Softplus": _softplus,
}
