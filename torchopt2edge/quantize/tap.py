"""A session that gives out activations at the price of plain inference.

ONNX Runtime computes convolutions in a blocked layout (NCHWc) and brings back into the plain one
every tensor that is asked for, which costs time for nothing: ranges and counts do
not depend on the layout: the graph is optimized once with the tensors as its outputs, as it would
be anyway, and then gives them out as they are computed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.host_session import host_session

if TYPE_CHECKING:
    import onnx

BLOCK = 16
"""The widest block of channels: beyond a multiple of it a tensor may be padded with zeros."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Exposed:
    """An open session, and the name under which it gives out each tensor."""

    session: Any
    outputs: tuple[str, ...]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Return the tensors' values, float32, some in a blocked layout of no meaning."""
        values: list[Array] = self.session.run(self.outputs, inputs)
        return values


def expose(proto: onnx.ModelProto, tensors: Sequence[str], threads: int | None) -> Exposed:
    """Open the graph so that it gives out these tensors, computed by nodes, and nothing else."""
    import onnx

    asked = onnx.ModelProto()
    asked.CopyFrom(proto)
    _give_out(asked, tensors)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "optimized.onnx"
        host_session(asked, threads=threads, keep=kept)
        made = onnx.load(kept)
    blocked = _blocked(made)
    for name in blocked:
        made.graph.node.remove(next(n for n in made.graph.node if name in n.output))
    names = tuple(blocked.get(name, name) for name in tensors)
    _give_out(made, names)
    return Exposed(host_session(made, optimize=False, threads=threads), names)


def _blocked(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the outputs that exist in the blocked layout already, with their names there.

    Not those that a node reads in the plain layout, which are there in both.
    """
    reads = {name for node in proto.graph.node for name in node.input}
    return {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "ReorderOutput"
        and node.output[0] not in reads
        and any(a.name == "channels" and a.i % BLOCK == 0 for a in node.attribute)
    }


def _give_out(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make these the graph's outputs."""
    import onnx

    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
