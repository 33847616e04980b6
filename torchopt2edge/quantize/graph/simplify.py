"""Fold the constants of a graph and simplify it, rule by rule, each rule with a name.

The rules are onnxscript's own, less those that match a constant within a tolerance: ``x + 0`` and
``x - 0`` match at 1e-8 there, so ``Log(x + 1e-10)`` lost its guard and met 0. In their place stands
`remove_identities`, which compares exactly.

Not ONNX Runtime's optimizer: it would break HardSwish into HardSigmoid and Mul, for which TFLite
has no integer kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

FOLDING, IDENTITIES = "constant folding", "arithmetic identities"
ROUNDS = 2
FOLD_LIMIT = 2**28  # elements of one constant: standardized weights must become weights
SHARED_RULES = (
    *("dropout_zero", "dropout_inference"),
    *("one_reshape_matmul_reshape", "two_reshapes_matmul_reshape"),
    *("cast_constant_of_shape", "cast_constant_of_shape_without_value"),
    *("collapse_slice", "collapse_slice2", "materialize_reshape_shape"),
    *("min_min", "max_max", "min_max", "max_min"),
    *("successive_clip_relu", "successive_relu_clip", "successive_relu", "successive_clip"),
    *("cast_cast", "no_op_cast", "no_op_expand", "flatten_to_reshape", "reshape_reshape"),
    *("slice_split", "no_op_transpose", "transpose_transpose", "unsqueeze_unsqueeze"),
    *("squeeze_reshape_1d", "no_op_dynamic_scatter_nd", "no_op_static_scatter_nd"),
    *("normalize_pad_format_conv", "normalize_pad_format_conv_integer"),
    *("fuse_pad_into_conv", "fuse_pad_into_conv_integer"),
    *("fuse_batchnorm_into_conv", "fuse_batchnorm_into_conv_transpose"),
    *("fuse_batchnorm_into_gemm",),
    *("remove_optional_bias_from_conv", "remove_optional_bias_from_conv_transpose"),
    *("remove_optional_bias_from_qlinear_conv", "remove_optional_bias_from_gemm"),
)
"""Names of ``onnxscript.rewriter.rules.common``, without the suffix ``_rule``."""
RULES = (FOLDING, IDENTITIES, *SHARED_RULES)
"""Every rule that may be left out, by name."""


def simplify(proto: onnx.ModelProto, left_out: Collection[str] = ()) -> onnx.ModelProto:
    """Return a copy with functions inlined, constants folded and the rules applied.

    Args:
        proto: a graph of any opset that onnxscript reads.
        left_out: rules of `RULES` that are not applied.
    """
    import onnx_ir as ir
    from onnx_ir.passes import PassManager, Sequential, common

    steps: list[Any] = [
        *_folding(left_out),
        *_rewriting(left_out),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    ]
    passes = Sequential(
        common.InlinePass(),
        PassManager(steps, steps=ROUNDS, early_stop=True),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    with _quiet():
        made = ir.serde.serialize_model(passes(ir.serde.deserialize_model(proto)).model)
    _drop_newer_attributes(made)
    return made


def _drop_newer_attributes(proto: onnx.ModelProto) -> None:
    """Take off what the rules write for newer opsets: Reshape has ``allowzero`` from 14 on."""
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    for node in proto.graph.node if opset < 14 else ():
        if node.op_type == "Reshape":
            kept = [item for item in node.attribute if item.name != "allowzero" or item.i]
            del node.attribute[:]
            node.attribute.extend(kept)


def _folding(left_out: Collection[str]) -> Iterator[Any]:
    from onnxscript.optimizer._constant_folding import FoldConstantsPass

    if FOLDING not in left_out:
        yield FoldConstantsPass(
            shape_inference=True, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT
        )


def _rewriting(left_out: Collection[str]) -> Iterator[Any]:
    from onnx_ir.passes import InPlacePass, PassResult
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common

    class Identities(InPlacePass):
        def call(self, model: ir.Model) -> PassResult:
            return PassResult(model, modified=remove_identities(model) > 0)

    if IDENTITIES not in left_out:
        yield Identities()
    rules = [getattr(common, f"{name}_rule") for name in SHARED_RULES if name not in left_out]
    if rules:
        yield RewritePass(rules)


NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def remove_identities(model: ir.Model) -> int:
    """Write ``x + 0``, ``x - 0``, ``x · 1`` and ``x ÷ 1`` as Identity, where exactly that stands.

    The constant must be a scalar (or of one element and no higher rank), so no shape changes.

    Returns:
        The number of nodes that became Identity.
    """
    count = 0
    for node in model.graph.all_nodes():
        source = _neutral_to(node)
        if source is None:
            continue
        node.op_type = "Identity"
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        count += 1
    return count


def _neutral_to(node: ir.Node) -> ir.Value | None:
    """Return the input that a node hands on unchanged, None where it changes it."""
    neutral = NEUTRAL.get(node.op_type)
    if neutral is None or node.domain not in ("", "ai.onnx") or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    pairs = [(first, second)]
    if node.op_type in ("Add", "Mul"):
        pairs.append((second, first))
    for source, constant in pairs:
        if source is not None and _is(constant, neutral) and _rank(source) >= _rank(constant):
            return source
    return None


def _is(value: ir.Value | None, number: float) -> bool:
    tensor = None if value is None else value.const_value
    if tensor is None or tensor.size != 1:
        return False
    return bool(np.asarray(tensor.numpy()).reshape(-1)[0] == number)


def _rank(value: ir.Value | None) -> int:
    """Return the rank; of an unknown shape -1, and of a constant its own."""
    if value is None or value.shape is None:
        return -1
    return len(value.shape)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnx_ir warns of what it leaves alone, such as a constant output."""
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
