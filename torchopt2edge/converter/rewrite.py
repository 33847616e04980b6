"""Write what onnx2tf or TensorFlow Lite lacks in operators that they have.

W1. ``Gelu`` for its spelling by ``Erf``, in opsets before 20, which TensorFlow Lite has not. With x
    the input and c a constant, in either order of the operands: x · ½ · (1 + erf(x ÷ √2)) from Div
    or Mul by c, Erf, Add and two Mul.
W2. ``ReduceL2`` → Mul, ReduceSum, Sqrt and ``ReduceL1`` → Abs, ReduceSum: onnx2tf 1.29.24 gives
    TensorFlow a kind of axis that it does not take.

Also copied beside ``child.py``: numpy and onnx only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

GELU_OPSET = 20


def rewrite(model: onnx.ModelProto) -> int:
    """Apply the rules in place; return how many times one did."""
    return fuse_gelu(model) + spell_norms(model)


def spell_norms(model: onnx.ModelProto) -> int:
    """W2: put sums in the place of norms; return how many there were."""
    from onnx import helper

    norms = [node for node in model.graph.node if node.op_type in ("ReduceL1", "ReduceL2")]
    for node in norms:
        (source, *axes), made = node.input, node.output[0]
        square = node.op_type == "ReduceL2"
        inner, total = f"{made}_inner", f"{made}_sum" if square else made
        given = [source, source] if square else [source]
        parts = [helper.make_node("Mul" if square else "Abs", given, [inner], name=inner)]
        summed = helper.make_node("ReduceSum", [inner, *axes], [total], name=node.name or total)
        summed.attribute.extend(node.attribute)
        parts += [summed]
        if square:
            parts += [helper.make_node("Sqrt", [total], [made], name=f"{made}_root")]
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for offset, part in enumerate(parts):
            model.graph.node.insert(place + offset, part)
    return len(norms)


def fuse_gelu(model: onnx.ModelProto) -> int:
    """W1: put ``Gelu`` in the place of each such group of nodes; return how many there were.

    The result is for onnx2tf alone, which goes by the operators' names: it is said to be of the
    first opset with a ``Gelu``, and no other node is brought there.
    """
    from onnx import helper

    done = 0
    while found := _found(_Graph(model.graph)):
        source, group = found
        last = group[-1]
        gelu = helper.make_node("Gelu", [source], list(last.output), name=last.name)
        place = list(model.graph.node).index(last)
        model.graph.node.insert(place, gelu)
        for node in group:
            model.graph.node.remove(node)
        done += 1
    for entry in model.opset_import:
        if done and entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, GELU_OPSET)  # else no shape is inferred behind it
    return done


class _Graph:
    """Who makes and who reads a tensor, and the single numbers among the constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.made = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {value.name: [None] for value in graph.output}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        held = {tensor.name: tensor for tensor in graph.initializer}
        held |= {
            node.output[0]: node.attribute[0].t
            for node in self.nodes
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self.numbers = {
            name: float(numpy_helper.to_array(tensor).reshape(-1)[0])
            for name, tensor in held.items()
            if math.prod(tensor.dims) == 1
        }

    def by(self, node: Any, kind: str, number: float) -> str | None:
        """Return what a node of this kind combines with that number, None if it is not so."""
        if node is None or node.op_type != kind:
            return None
        first, second = node.input
        pairs = [(first, second)] if kind == "Div" else [(first, second), (second, first)]
        for value, constant in pairs:
            if constant in self.numbers and np.isclose(self.numbers[constant], number, rtol=1e-4):
                return str(value)
        return None

    def reader(self, node: Any) -> Any:
        """Return the only node that reads what this one makes, None where there are others."""
        readers = self.readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 else None


def _found(graph: _Graph) -> tuple[str, list[Any]] | None:
    """Return one group's input and nodes, the last of which makes its output."""
    for erf in graph.nodes:
        inner = graph.made.get(erf.input[0]) if erf.op_type == "Erf" else None
        source = graph.by(inner, "Div", math.sqrt(2)) or graph.by(inner, "Mul", math.sqrt(0.5))
        raised = graph.reader(erf)
        if source is None or graph.by(raised, "Add", 1.0) is None:
            continue
        rest = _halved(graph, source, raised)
        if rest and graph.reader(inner) is erf:
            return source, [inner, erf, raised, *rest]
    return None


def _halved(graph: _Graph, source: str, raised: Any) -> list[Any]:
    """Return the nodes that multiply 1 + erf(…) by ½ and by the source, nothing if none do."""
    first = graph.reader(raised)
    if first is None or first.op_type != "Mul":
        return []
    second = graph.reader(first)
    if graph.by(first, "Mul", 0.5) is not None:  # ½ · (1 + erf), then · x
        return [first, second] if _times(second, source) else []
    if _times(first, source):  # x · (1 + erf), then · ½
        return [first, second] if graph.by(second, "Mul", 0.5) is not None else []
    other = next(name for name in first.input if name != raised.output[0])
    half = graph.made.get(other)  # x · ½, then · (1 + erf)
    alone = half is not None and graph.reader(half) is first
    return [half, first] if alone and graph.by(half, "Mul", 0.5) == source else []


def _times(node: Any, source: str) -> bool:
    return node is not None and node.op_type == "Mul" and source in node.input
