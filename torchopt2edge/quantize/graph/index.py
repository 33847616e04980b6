"""A graph with its neighbours at hand: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class View:
    """The main graph of a model, indexed by tensor name.

    ``readers`` lists a node once for each of its inputs; what a subgraph reads is not in it.
    """

    proto: ModelProto
    made: Mapping[str, NodeProto]
    readers: Mapping[str, Sequence[NodeProto]]
    constants: Mapping[str, Any]

    @classmethod
    def of(cls, proto: ModelProto) -> View:
        """Index a model; it must not change while the view is used."""
        readers = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                readers[name].append(node)
        made = {name: node for node in proto.graph.node for name in node.output}
        constants = {weight.name: weight for weight in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                constants[node.output[0]] = node.attribute[0].t
        return cls(proto, made, readers, constants)

    def array(self, name: str) -> Array | None:
        """Return a constant's values; None when the tensor is not constant."""
        from onnx import numpy_helper

        if name not in self.constants:
            return None
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def kind(self, name: str) -> str:
        """Return the operator that makes a tensor, "" for an input or a constant."""
        return str(self.made[name].op_type) if name in self.made else ""

    def varying(self, node: NodeProto) -> list[str]:
        """Name the inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]
