"""Which layers of an 8-bit ONNX file lose accuracy on x86 processors without VNNI.

There ONNX Runtime's matrix kernels (MLAS) multiply unsigned activations by signed weights with
``vpmaddubsw``, which adds two neighbouring products in 16 bits and saturates at -32768 and
32767. Reported as onnxruntime#5849, #6004 and #12072. The rules, confirmed with onnxruntime 1.31 on
such a processor (``tests/quantize/test_saturation.py``):

P1. The pairs are the positions (0, 1), (2, 3) … of a kernel row. The row of a convolution's output
    channel is ordered by kernel height, kernel width, input channel of its group; that of a Gemm or
    MatMul by input feature. A row of odd length ends with a pair of one.
P2. Signed activations are shifted by 128 to unsigned ones first, so the same bound holds for them.
P3. Depthwise convolutions (one input and one output channel per group) have a kernel that adds in
    32 bits: they have no pairs. So has ConvInteger, which multiplies the operands in the other
    order.
P4. Unsigned weights (128 more, with zero point 128) are multiplied in 16 bits and added in 32:
    exact, and slower than signed ones.

Quantized activations span 0 to 255 by construction of their scale, so the bound of a pair is 255
times the sum of its positive weights, or of its negative ones. A pair within the bound never
saturates, whatever the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.graph.index import attributes_of, values_of
from torchopt2edge.quantize.graph.op_types import LAYERS, WEIGHT_INPUT, name_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]

_MOST = 255  # the largest unsigned activation
_LOW, _HIGH = -(2**15), 2**15 - 1

# P3: a ConvInteger has no pairs.
_WITHOUT_PAIRS = LAYERS | {"ConvInteger"}


def kernel_rows(weight: Array, axis: int, *, convolution: bool) -> Array:
    """Return the weights as the kernel reads them, one row per output channel (P1).

    Args:
        weight: int8 weights of a convolution [output channels, input channels per group, *kernel],
            or of a Gemm or MatMul with output features along ``axis``.
        axis: the axis of output channels.
        convolution: whether the weights are a convolution's.

    Returns:
        int32 [output channels, positions].
    """
    rows = np.moveaxis(weight, 1, -1) if convolution else np.moveaxis(weight, axis, 0)
    return np.asarray(rows.reshape(weight.shape[axis], -1), np.int32)


def can_saturate(rows: Array) -> bool:
    """Tell whether any input exists for which a pair of products leaves the 16-bit range.

    Args:
        rows: int8 weights in the kernel's order, int32 [output channels, positions].
    """
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    pairs = rows.reshape(len(rows), -1, 2)
    high = _MOST * np.maximum(pairs, 0).sum(axis=2).max(initial=0)
    low = _MOST * np.minimum(pairs, 0).sum(axis=2).min(initial=0)
    return bool(high > _HIGH or low < _LOW)


def is_depthwise(weight: Array, group: int) -> bool:
    """Tell whether a convolution has one input and one output channel per group (P3)."""
    return bool(weight.shape[1] == 1 and weight.shape[0] == group)


def saturating_layers(graph: GraphProto) -> list[str]:
    """Name the integer operators of an optimized graph that can saturate without VNNI.

    Args:
        graph: the graph as ONNX Runtime optimizes it, with its operators on integers fused.

    Returns:
        The names of the nodes, in the graph's order; their outputs' names where they have none.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    return [name_of(node) for node in graph.node if _saturates(node, weights)]


def _saturates(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    place = WEIGHT_INPUT.get(node.op_type)
    if place is None or node.op_type in _WITHOUT_PAIRS:
        return False
    if len(node.input) <= place or node.input[place] not in weights:
        return False
    weight = values_of(weights[node.input[place]])
    if weight.dtype != np.int8 or weight.ndim < 2:  # P4
        return False
    attributes = attributes_of(node)
    if node.op_type == "QLinearConv":
        depthwise = is_depthwise(weight, attributes.get("group", 1))
        return not depthwise and can_saturate(kernel_rows(weight, 0, convolution=True))
    axis = 0 if attributes.get("transB") else weight.ndim - 1
    return any(can_saturate(rows) for rows in _matrices(weight, axis))


def _matrices(weight: Array, axis: int) -> Iterator[Array]:
    """Yield the kernel rows of each matrix: a MatMul may hold a stack of them."""
    for matrix in weight.reshape(-1, *weight.shape[-2:]):
        yield kernel_rows(matrix, axis - weight.ndim + 2, convolution=False)
