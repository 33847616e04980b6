"""Which activations are observed, and which take their range from an observed one.

D1. What only moves values and keeps all of them (Reshape, Transpose, DepthToSpace …) has its
    input's range: the values are the same.
D2. What a Conv, ConvTranspose, Gemm, MatMul or Add gives to a single Relu or Clip, and to no other
    node, takes the range behind it. Both runtimes fuse the two, and clipping at the ends of the
    Relu's or Clip's range gives the same values. The tensor in front need not be checked for NaN
    either: with finite weights, and inputs within `may_overflow`, it has none. Observing it would
    also keep ONNX Runtime from fusing the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.index import GraphIndex, float_weights, values_of
from torchopt2edge.quantize.graph.op_types import FUSED, LAYERS, Trait, having

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# D1: a Slice may leave out the extremes, and a Pad may add others.
KEEPING = having(Trait.MOVES, without=Trait.DROPS | Trait.PADS)
# D2: whose largest possible value `may_overflow` can tell.
BOUNDED = LAYERS | {"Add"}


def shared_ranges(proto: ModelProto, tensors: list[str], *, fuse: bool = True) -> dict[str, str]:
    """Return the tensors that need not be observed, each with the observed one it takes from.

    Args:
        proto: a float graph.
        tensors: its activations, in the order of the nodes.
        fuse: whether rule D2 applies.
    """
    index = GraphIndex.of(proto)
    known, weights = set(tensors), _finite_weights(proto)
    shared: dict[str, str] = {}
    for node in proto.graph.node:
        source, target = node.input[0] if node.input else "", node.output[0]
        if source not in known or target not in known:
            continue
        if node.op_type in KEEPING:
            shared[target] = shared.get(source, source)
        elif fuse and node.op_type in FUSED and index.uses[source] == 1:
            producer = index.producers.get(source)
            if producer is not None and _is_bounded(producer, known, weights):
                shared[source] = target
    return shared


def _is_bounded(node: NodeProto, known: set[str], weights: set[str]) -> bool:
    """Tell whether rule D2 may apply to a node's output: `may_overflow` can bound it."""
    inputs = list(filter(None, node.input))
    if node.op_type == "Add":
        return known | weights >= set(inputs)
    return node.op_type in BOUNDED and inputs[0] in known and weights >= set(inputs[1:])


def may_overflow(
    proto: ModelProto, bounds: Mapping[str, tuple[float, float]], shared: Collection[str]
) -> bool:
    """Tell whether a tensor of rule D2 could exceed float32, given the ranges of its inputs.

    The bound is the product of the largest magnitudes times the number of weights: far from
    tight, and still far from the values of any net that works.

    Args:
        proto: a float graph.
        bounds: the (min, max) of its activations.
        shared: the tensors that `shared_ranges` returned. Those of rule D1 were observed under
            another name.
    """
    arrays = {weight.name: values_of(weight) for weight in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in BOUNDED or node.output[0] not in shared:
            continue
        limit = 1.0
        for name in filter(None, node.input):
            if name in arrays:
                largest = float(np.abs(arrays[name]).max(initial=1.0))
                limit *= largest * (arrays[name].size + 1)
            else:
                limit *= 2.0 * max(1.0, *(abs(end) for end in bounds[name]))
        if limit > float(np.finfo(np.float32).max):
            return True
    return False


def _finite_weights(proto: ModelProto) -> set[str]:
    """Return the float32 weights without NaN and infinity."""
    weights = float_weights(proto.graph)
    return {name for name, weight in weights.items() if np.isfinite(values_of(weight)).all()}
