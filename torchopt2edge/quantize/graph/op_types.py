"""The table of ONNX operator types: what each does to values, and where it has an integer kernel.

Every other module derives its set of types from this table (`having`), and says why where it takes
less than all that have a trait.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto

Array = np.ndarray[Any, Any]


class Trait(Flag):
    """What is true of every operator of a type."""

    LAYER = auto()
    """Multiplies by weights, its second input: where the multiply-accumulates are."""
    BIASED = auto()
    """Adds a bias, its third input."""
    ARITHMETIC = auto()
    """Adds, subtracts, multiplies or divides its two inputs, element by element."""
    ELEMENTWISE = auto()
    """Reads a constant operand as integers, with quantization parameters of its own."""
    POINTWISE = auto()
    """Computes each value from the one value, or the two values, at the same position."""
    ACTIVATION = auto()
    """Is a non-linear function of one input, as behind a layer."""
    FUSED = auto()
    """Goes into the operator before it in both runtimes, where nothing else reads that one."""
    HOMOGENEOUS = auto()
    """Passes a positive factor per channel from its input to its output."""
    MOVES = auto()
    """Carries values and computes none."""
    DROPS = auto()
    """Moves values, and may leave some out."""
    PADS = auto()
    """Moves values, and may add others."""
    SAME_SCALE = auto()
    """Computes values, and has its input's scale at its output in LiteRT."""
    INTEGER = auto()
    """Computes in integers in one of the runtimes at least, and loses little by it."""
    ORT = auto()
    """Runs on integers in ONNX Runtime's CPU provider between a DequantizeLinear and a
    QuantizeLinear: read off the graphs that onnxruntime 1.31 makes, with uint8 activations."""


_T = Trait
_NONE = Trait(0)
_LAYER = _T.LAYER | _T.INTEGER
_ARITHMETIC = _T.ARITHMETIC | _T.POINTWISE
_FUNCTION = _T.POINTWISE | _T.ACTIVATION
_WHOLE = _T.MOVES | _T.ORT

TABLE: dict[str, Trait] = {
    # layers
    "Conv": _LAYER | _T.BIASED | _T.ORT,
    "ConvTranspose": _LAYER | _T.BIASED,
    "Gemm": _LAYER | _T.BIASED | _T.ORT,
    "MatMul": _LAYER | _T.ORT,
    # arithmetic of two tensors, or of a tensor and a constant
    "Add": _ARITHMETIC | _T.ELEMENTWISE | _T.INTEGER | _T.ORT,
    "Sub": _ARITHMETIC | _T.ELEMENTWISE | _T.INTEGER,
    "Mul": _ARITHMETIC | _T.ELEMENTWISE | _T.INTEGER | _T.ORT,
    "Div": _ARITHMETIC,
    "Pow": _T.POINTWISE,
    # functions of one tensor
    "Relu": _FUNCTION | _T.FUSED | _T.HOMOGENEOUS | _T.INTEGER,
    "Clip": _FUNCTION | _T.FUSED | _T.INTEGER,
    "LeakyRelu": _FUNCTION | _T.HOMOGENEOUS | _T.INTEGER | _T.ORT,
    "PRelu": _FUNCTION | _T.HOMOGENEOUS,
    "Sigmoid": _FUNCTION | _T.INTEGER | _T.ORT,
    "Tanh": _FUNCTION | _T.INTEGER,
    "HardSigmoid": _FUNCTION,
    "HardSwish": _FUNCTION,
    "Elu": _FUNCTION,
    "Selu": _FUNCTION,
    "Celu": _FUNCTION,
    "Gelu": _FUNCTION,
    "Mish": _FUNCTION,
    "Softplus": _FUNCTION,
    "Softsign": _FUNCTION,
    "Erf": _T.POINTWISE,
    "Exp": _T.POINTWISE,
    "Log": _T.POINTWISE,
    "Sqrt": _T.POINTWISE,
    "Reciprocal": _T.POINTWISE,
    "Neg": _T.POINTWISE,
    "Abs": _T.POINTWISE,
    # pooling, joining, resampling
    "AveragePool": _T.HOMOGENEOUS | _T.SAME_SCALE | _T.INTEGER | _T.ORT,
    "GlobalAveragePool": _T.HOMOGENEOUS | _T.INTEGER | _T.ORT,
    "GlobalMaxPool": _T.HOMOGENEOUS,
    "ReduceMean": _T.INTEGER,
    "Concat": _T.ELEMENTWISE | _T.INTEGER | _T.ORT,
    "Where": _T.ELEMENTWISE | _T.INTEGER,
    "Resize": _T.SAME_SCALE | _T.INTEGER | _T.ORT,  # moves values in mode nearest (`moves_values`)
    # moves
    "Identity": _WHOLE | _T.HOMOGENEOUS,
    "Dropout": _WHOLE,  # at inference; ONNX Runtime takes it out
    "Reshape": _WHOLE,
    "Flatten": _WHOLE,
    "Squeeze": _WHOLE,
    "Unsqueeze": _WHOLE,
    "Transpose": _WHOLE,
    "DepthToSpace": _WHOLE,
    "SpaceToDepth": _T.MOVES,
    "Expand": _WHOLE,
    "Tile": _WHOLE,
    "MaxPool": _WHOLE | _T.DROPS | _T.HOMOGENEOUS,
    "Slice": _WHOLE | _T.DROPS,
    "Split": _WHOLE | _T.DROPS,
    "Gather": _WHOLE | _T.DROPS,
    "Pad": _WHOLE | _T.PADS,  # on the integers themselves: rule Q3 of `qdq_writer`
}


def having(traits: Trait, without: Trait = _NONE) -> frozenset[str]:
    """Return the types that have all of the ``traits`` and none of ``without``."""
    return frozenset(
        name for name, known in TABLE.items() if traits in known and not known & without
    )


LAYERS = having(Trait.LAYER)
FUSED = having(Trait.FUSED)
MOVES = having(Trait.MOVES)
INTEGER = having(Trait.INTEGER)

QDQ = frozenset(("QuantizeLinear", "DequantizeLinear"))
"""What marks a tensor as quantized between float operators."""

WEIGHT_INPUT = {
    **dict.fromkeys(LAYERS, 1),
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
"""Which input of a layer, or of its integer kernel, holds the weights."""

_INTEGER_KERNEL = re.compile(
    r"QLinear\w+|QGemm|QAttention|ConvInteger|MatMulInteger|MatMulIntegerToFloat"
    r"|DynamicQuantizeMatMul"
)


def is_integer_kernel(op_type: str) -> bool:
    """Tell whether an operator type computes in integers."""
    return _INTEGER_KERNEL.fullmatch(op_type) is not None


def is_quantized(op_type: str) -> bool:
    """Tell whether an operator type is found in quantized graphs alone."""
    return op_type in QDQ or op_type == "DynamicQuantizeLinear" or is_integer_kernel(op_type)


def moves_values(node: NodeProto, array: Callable[[str], Array | None]) -> bool:
    """Tell whether a node gives out no values but its input's, and zeros.

    Args:
        node: a node of a float graph.
        array: returns the values of a constant, None for any other tensor.
    """
    if node.op_type == "Pad":
        name = node.input[2] if len(node.input) > 2 else ""
        value = array(name) if name else np.zeros(1)
        return _mode(node, "constant") != "constant" or (value is not None and not value.any())
    if node.op_type == "Resize":
        return _mode(node, "nearest") == "nearest"
    return node.op_type in MOVES


def _mode(node: NodeProto, default: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == "mode"), default)


def name_of(node: NodeProto) -> str:
    """Return a node's name, or its first output when it has none."""
    return str(node.name or node.output[0])
