"""Remove from an ONNX graph what no runtime reads: inferred shapes and the quantizer's long names.

In a net of 30 000 weights they were a fifth of the int8 file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchopt2edge.quantize.graph.op_types import QDQ

if TYPE_CHECKING:
    import onnx


def compact(proto: onnx.ModelProto, known: set[str]) -> onnx.ModelProto:
    """Shorten every tensor name that is not known, in place.

    Args:
        proto: the graph to ship.
        known: the tensor names of the float graph (`names_of`). They stay, so that a profile still
            shows the model's layers. QuantizeLinear and DequantizeLinear nodes lose their names.

    Returns:
        ``proto``.
    """
    graph = proto.graph
    del graph.value_info[:]
    short: dict[str, str] = {}
    taken = set(known)

    def rename(name: str) -> str:
        if not name or name in known:
            return name
        if name not in short:
            number = len(short)
            while f"q{number}" in taken:
                number += 1
            short[name] = f"q{number}"
            taken.add(short[name])
        return short[name]

    for node in graph.node:
        if node.op_type in QDQ:
            node.name = ""
        _rename(node.input, rename)
        _rename(node.output, rename)
    for weight in graph.initializer:
        weight.name = rename(weight.name)
    return proto


def _rename(names: Any, rename: Callable[[str], str]) -> None:
    for index, name in enumerate(names):
        names[index] = rename(name)


def names_of(proto: onnx.ModelProto) -> set[str]:
    """Return every tensor name of a graph."""
    graph = proto.graph
    of_nodes = {name for node in graph.node for name in (*node.input, *node.output)}
    of_values = {value.name for value in (*graph.input, *graph.output)}
    return of_nodes | of_values | {weight.name for weight in graph.initializer}
