"""What can be done with an operator of a float ONNX, by its type; for `quantized_tensors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SAME = ("AveragePool", "Resize")
ELEMENTWISE = ("Add", "Sub", "Mul", "Concat", "Where")
FUSED = ("Relu", "Clip")
OPS = frozenset(
    (
        *LAYERS,
        *SAME,
        *ELEMENTWISE,
        *FUSED,
        *"GlobalAveragePool ReduceMean Sigmoid LeakyRelu Tanh".split(),
    )
)
"""What is integer in one of the runtimes at least, and loses little by it."""

MOVES = frozenset(
    "MaxPool Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Pad Gather Identity Expand "
    "DepthToSpace SpaceToDepth Dropout".split()
)
"""What carries values and computes none."""


def name_of(node: NodeProto) -> str:
    """Return a node's name, or its first output when it has none."""
    return str(node.name or node.output[0])
