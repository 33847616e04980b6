"""The weights of a layer by input or output channel, for `equalization` to scale in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from torchopt2edge.quantize.graph.index import GraphIndex, attributes_of
from torchopt2edge.quantize.graph.op_types import Trait, having

if TYPE_CHECKING:
    from onnx import NodeProto

Array = np.ndarray[Any, Any]
Side = Literal["input", "output"]

# A MatMul has no bias that could be scaled with its outputs.
LAYERS = having(Trait.BIASED)


@dataclass(frozen=True)
class Layer:
    """The constants of one layer.

    Attributes:
        node: a Conv, ConvTranspose or Gemm.
        weight: float64, in the node's layout; changed in place.
        bias: float64 [output channels], None without a bias; changed in place.
    """

    node: NodeProto
    weight: Array
    bias: Array | None

    def peaks(self, side: Side) -> Array:
        """Return the largest |weight| of each input or output channel, [channels]."""
        view, axes = self._channels(side)
        others = tuple(axis for axis in range(view.ndim) if axis not in axes)
        return np.asarray(np.abs(view).max(others).ravel())

    def scale(self, side: Side, factors: Array) -> None:
        """Multiply the weights of each channel by its factor, and the bias of output channels."""
        view, axes = self._channels(side)
        view *= factors.reshape([n if axis in axes else 1 for axis, n in enumerate(view.shape)])
        if side == "output" and self.bias is not None:
            self.bias[:] *= factors

    def products(self) -> tuple[Array, Array, int]:
        """Return what connects each output channel with each input channel.

        Returns:
            The largest |weight| and the sum of the squared weights, both [groups, outputs, inputs]
            and relative to the largest |weight| of the output channel, and the number of kernel
            positions.
        """
        block = self._by_group()
        largest = np.abs(block).max((2, 3), keepdims=True)
        block = np.abs(block) / np.where(largest > 0, largest, 1)
        return block.max(3), np.square(block).sum(3), block.shape[3]

    @property
    def _first_axis(self) -> Side:
        """Which channels the first axis of the weight counts."""
        if self.node.op_type == "Gemm":
            return "output" if attributes_of(self.node).get("transB") else "input"
        return "output" if self.node.op_type == "Conv" else "input"

    def _channels(self, side: Side) -> tuple[Array, tuple[int, ...]]:
        """Return a view of the weight, and its axes that together count the channels of a side."""
        first = self._first_axis
        if self.node.op_type == "Gemm":
            return self.weight, (0 if side == first else 1,)
        if side == first:
            return self.weight.reshape(len(self.weight), -1), (0,)
        return self._grouped(), (0, 2)

    def _grouped(self) -> Array:
        """Return a convolution's weight as [groups, first axis in the group, second axis, taps]."""
        groups = attributes_of(self.node).get("group", 1)
        rows, columns = self.weight.shape[:2]
        return self.weight.reshape(groups, rows // groups, columns, -1)

    def _by_group(self) -> Array:
        """Return the weight as [groups, outputs, inputs, taps]."""
        outputs_first = self._first_axis == "output"
        if self.node.op_type == "Gemm":
            matrix = self.weight if outputs_first else self.weight.T
            return matrix[None, :, :, None]
        grouped = self._grouped()
        return grouped if outputs_first else grouped.swapaxes(1, 2)


def constant_layers(index: GraphIndex) -> dict[str, Layer]:
    """Return the layers whose weights and bias are constants, by the tensor that they write."""
    layers = {}
    for node in index.proto.graph.node:
        if node.op_type not in LAYERS or attributes_of(node).get("transA"):
            continue
        weight = index.array(node.input[1])
        bias_name = node.input[2] if len(node.input) > 2 else ""
        bias = index.array(bias_name) if bias_name else None
        if weight is None or (bias_name and bias is None):
            continue
        layer = Layer(node, np.array(weight, np.float64), None)
        if bias is not None:
            if bias.size != layer.peaks("output").size:
                continue
            layer = Layer(node, layer.weight, np.array(bias, np.float64).ravel())
        layers[node.output[0]] = layer
    return layers
