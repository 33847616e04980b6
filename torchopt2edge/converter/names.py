"""The names of a graph's inputs and outputs, and what they are called in a TensorFlow signature.

Also copied beside ``child.py``: standard library and onnx only.
"""

from __future__ import annotations

import itertools
import keyword
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def signature_names(names: list[str]) -> list[str]:
    """Return one distinct Python identifier per name: what TensorFlow signatures can hold."""
    taken: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not plain[:1].isalpha() or keyword.iskeyword(plain):
            plain = f"t_{plain}"
        unique = plain
        for number in itertools.count(2):
            if unique not in taken and (unique == name or unique not in names):
                break
            unique = f"{plain}_{number}"
        taken.append(unique)
    return taken


_SAFE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")  # what a scope of TensorFlow may be called
_LONGEST = 120


def make_safe(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename the nodes and inner tensors that TensorFlow cannot name, in place.

    These are names with other characters (``Softmax@0``), very long ones, and two that differ in
    case alone. Inputs and outputs stay: whoever converts gives them names of their own.

    Returns:
        New name → old name.
    """
    ends = {value.name for value in (*graph.input, *graph.output)}
    taken = {name.lower() for name in ends}
    tensors: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for weight in graph.initializer:
        _rename(weight.name, ends, taken, tensors)
    for at, node in enumerate(graph.node):
        for name in node.output:
            _rename(name, ends, taken, tensors)
        old = node.name
        if old and (not _is_safe(old) or len(old) > _LONGEST):
            node.name = f"{node.op_type}_{at}"
            nodes[node.name] = old
    rename_in_graph(graph, {old: new for old, new in tensors.items() if old != new})
    return {**{new: old for old, new in tensors.items() if new != old}, **nodes}


def _is_safe(name: str) -> bool:
    return _SAFE.fullmatch(name) is not None and len(name) <= _LONGEST


def _rename(name: str, ends: set[str], taken: set[str], made: dict[str, str]) -> None:
    """Choose a safe name that no other tensor has, whatever the case of its letters."""
    if not name or name in ends or name in made:
        return
    plain = name if _is_safe(name) else re.sub(r"[^A-Za-z0-9_./-]", "_", name)[:_LONGEST]
    plain = plain if _SAFE.match(plain) else f"t{plain}"
    new, number = plain, 1
    while new.lower() in taken:
        number += 1
        new = f"{plain}_{number}"
    taken.add(new.lower())
    made[name] = new


def graph_names(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Return the names of the graph's inputs (weights left out) and outputs, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    return inputs, [value.name for value in model.graph.output]


def constant_outputs(model: onnx.ModelProto) -> list[int]:
    """Return the places of the outputs that do not depend on any input."""
    reached = set(graph_names(model)[0])
    for node in model.graph.node:
        if reached & set(node.input):
            reached.update(node.output)
    return [at for at, value in enumerate(model.graph.output) if value.name not in reached]


def rename_in_graph(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors in a graph and in the graphs inside its nodes."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename_in_graph(inner, names)


def renamed(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Return a copy whose inputs and outputs bear these names.

    onnx2tf drops an output whose name holds ``:`` and rewrites those with ``/``.
    """
    from onnx import helper

    copy = type(model)()
    copy.CopyFrom(model)
    old_inputs, old_outputs = graph_names(copy)
    for index, name in enumerate(old_outputs):
        if name in old_inputs or name in old_outputs[:index]:  # a tensor can bear one name only
            fresh = f"{outputs[index]}_copy"
            copy.graph.node.append(helper.make_node("Identity", [name], [fresh]))
            copy.graph.output[index].name = old_outputs[index] = fresh
    names = dict(zip(old_inputs + old_outputs, inputs + outputs, strict=True))
    used = {name for node in copy.graph.node for name in (*node.input, *node.output)}
    clashes = (set(names.values()) & used) - set(names)
    names.update({name: f"{name}_inner" for name in clashes})
    rename_in_graph(copy.graph, names)
    return copy


def keep_names(model: onnx.ModelProto, names: list[str]) -> list[str]:
    """Return the inputs that onnx2tf would bring to channels-last: those of 3 to 5 axes."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    return [name for name in names if 3 <= ranks[name] <= 5]
