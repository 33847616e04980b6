"""A session that returns activations for the price of plain inference.

ONNX Runtime computes convolutions in a blocked layout (NCHWc) and converts every tensor that is
requested to the plain one. Ranges and counts do not depend on the layout, so the conversion would
be wasted. The graph is optimized once with the tensors as its outputs, as it would be anyway, and
then returns them in the layout in which they are computed.
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
"""The widest block of channels: a tensor with another number of them may be padded with zeros."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tap:
    """An open session, and the name under which it returns each tensor."""

    session: Any
    outputs: tuple[str, ...]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Return the tensors' values, float32; the layout of some is blocked."""
        values: list[Array] = self.session.run(self.outputs, inputs)
        return values


def open_tap(proto: onnx.ModelProto, tensors: Sequence[str], threads: int | None) -> Tap:
    """Open a graph so that it returns these tensors and nothing else.

    Args:
        proto: a float graph.
        tensors: tensors that nodes compute.
        threads: how many threads one operator uses; all cores for None.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    _set_outputs(copy, tensors)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        host_session(copy, threads=threads, keep=file)
        optimized = onnx.load(file)
    blocked = _blocked(optimized)
    for name in blocked:
        node = next(node for node in optimized.graph.node if name in node.output)
        optimized.graph.node.remove(node)
    names = tuple(blocked.get(name, name) for name in tensors)
    _set_outputs(optimized, names)
    return Tap(host_session(optimized, optimize=False, threads=threads), names)


def _blocked(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the outputs that exist in the blocked layout, with their names there.

    Without those that a node reads in the plain layout: they are computed in both.
    """
    reads = {name for node in proto.graph.node for name in node.input}
    return {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "ReorderOutput"
        and node.output[0] not in reads
        and any(a.name == "channels" and a.i % BLOCK == 0 for a in node.attribute)
    }


def _set_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> None:
    import onnx

    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
