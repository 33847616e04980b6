"""Random ONNX graphs: operators, shapes, dtypes and names as files of strangers have them."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
ALPHABET = "abcXYZ019_./:@- é日"


class Writer:
    """Grows one graph node by node, from an image or a row of features."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.taken: set[str] = set()

    def name(self) -> str:
        """Return a name that no tensor has, whatever its characters."""
        while True:
            length = self.chance.choice((1, 3, 8, 40))
            name = "".join(self.chance.choice(ALPHABET) for _ in range(length)).strip()
            if name and name not in self.taken:
                self.taken.add(name)
                return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """Add a float weight."""
        spread = scale or 1 / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant((self.rng.standard_normal(shape) * spread).astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        """Add a constant."""
        name = self.name()
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, *given: str, **attributes: object) -> str:
        """Add a node; half of them have a name."""
        made = self.name()
        title = self.chance.choice((made, f"{op_type}@{len(self.nodes)}", ""))
        self.nodes.append(helper.make_node(op_type, given, [made], name=title, **attributes))
        return made


def _conv(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    size, stride = w.chance.choice((1, 3)), w.chance.choice((1, 2))
    group = w.chance.choice((1, shape[1]))
    out = shape[1] if group > 1 else w.chance.choice((3, 8))
    weight = w.weight(out, shape[1] // group, size, size)
    pads = [size // 2] * 4
    made = w.node("Conv", x, weight, pads=pads, strides=[stride] * 2, group=group)
    sides = [(side - 1) // stride + 1 for side in shape[2:]]
    return made, (shape[0], out, *sides)


def _unary(*kinds: str) -> Callable[[Writer, str, Shape], tuple[str, Shape]]:
    def step(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
        return w.node(w.chance.choice(kinds), x), shape

    return step


def _affine(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    other = w.weight(1, shape[1], *[1] * (len(shape) - 2), scale=w.chance.choice((1.0, 30.0)))
    return w.node(w.chance.choice(("Add", "Mul", "Sub")), x, other), shape


def _guarded(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    tiny = w.constant(np.float32(10 ** w.chance.uniform(-12, -6)))
    return w.node("Log", w.node("Add", w.node("Abs", x), tiny)), shape


def _norm(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    channels = shape[1]
    given = [w.weight(channels, scale=1.0) for _ in range(3)]
    variance = w.constant((w.rng.random(channels) + 0.5).astype(np.float32))
    return w.node("BatchNormalization", x, *given, variance), shape


def _pool(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    if min(shape[2:]) < 2:
        return x, shape
    kind = w.chance.choice(("MaxPool", "AveragePool"))
    made = w.node(kind, x, kernel_shape=[2, 2], strides=[2, 2])
    return made, (*shape[:2], *(side // 2 for side in shape[2:]))


def _residual(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    weight = w.weight(shape[1], shape[1], 3, 3)
    return w.node("Add", x, w.node("Conv", x, weight, pads=[1] * 4)), shape


def _concat(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    far = w.node("Mul", x, w.constant(np.float32(w.chance.choice((1, 100)))))
    made = w.node("Concat", far, w.node("Sigmoid", x), axis=1)
    return made, (shape[0], 2 * shape[1], *shape[2:])


def _mean(w: Writer, x: str, shape: Shape) -> tuple[str, Shape]:
    made = w.node("ReduceMean", x, w.constant(np.array([2, 3])), keepdims=1)
    return made, (*shape[:2], 1, 1)


IMAGE = (
    *(_conv, _conv, _conv, _norm, _affine, _guarded, _pool, _residual, _concat, _mean),
    _unary("Relu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu"),
    _unary("Identity", "Neg", "Abs", "Softplus"),
)


def random_graph(seed: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a graph with an image for input, and eight samples of it."""
    w = Writer(seed)
    size = w.chance.choice((4, 7, 8, 12))
    shape: Shape = (1, w.chance.choice((1, 3, 4)), size, w.chance.choice((size, 9)))
    given, start = w.name(), shape
    x = given
    for _ in range(w.chance.randint(1, 7)):
        x, shape = w.chance.choice(IMAGE)(w, x, shape)
    outputs = [x]
    if w.chance.random() < 0.7:
        flat = w.node("Flatten", w.node("GlobalAveragePool", x))
        outputs = [w.node("Gemm", flat, w.weight(shape[1], 5))]
    if w.chance.random() < 0.3:
        outputs.append(w.node("ArgMax", x, axis=1, keepdims=0))
    batch = w.chance.choice((1, "N", "batch size"))
    ends = [helper.make_tensor_value_info(given, TensorProto.FLOAT, [batch, *start[1:]])]
    made = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if at else TensorProto.FLOAT, None)
        for at, name in enumerate(outputs)
    ]
    graph = helper.make_graph(w.nodes, w.name(), ends, made, w.weights)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    return model, {given: w.rng.standard_normal((8, *start[1:])).astype(np.float32)}
