"""Which activations are watched, and which take their range from one that is.

D1. Identity, Reshape, Flatten, Squeeze, Unsqueeze and Transpose move values: the output's range
    is the input's, and so are its counts.
D2. What a Conv, ConvTranspose, Gemm, MatMul or Add gives to a single Relu or Clip, and to nobody
    else, takes the range behind it: both runtimes fuse the two, and a grid that saturates at the
    ends of the Relu or Clip computes the same where they do not. The values in front of it need
    not be looked at for NaN either: with finite weights, and inputs within `overflows`, there is
    none. Watching them would keep ONNX Runtime from fusing the two, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from torchopt2edge.quantize.graph.prepare import nodes

if TYPE_CHECKING:
    import onnx

MOVING = frozenset("Identity Reshape Flatten Squeeze Unsqueeze Transpose".split())
FUSED = frozenset("Conv ConvTranspose Gemm MatMul Add".split())
ENDING = frozenset(("Relu", "Clip"))


def derived(proto: onnx.ModelProto, tensors: list[str], *, fuse: bool = True) -> dict[str, str]:
    """Return the tensors that need no watching, each with the watched one it goes by.

    ``tensors`` are the float activations in the order of the nodes; ``fuse`` applies rule D2.
    """
    reads = Counter(name for node in nodes(proto.graph) for name in node.input)
    reads.update(value.name for value in proto.graph.output)
    made = {name: node for node in proto.graph.node for name in node.output}
    known, weights = set(tensors), _finite_weights(proto)
    found: dict[str, str] = {}
    for node in proto.graph.node:
        source, target = node.input[0] if node.input else "", node.output[0]
        if source not in known or target not in known:
            continue
        if node.op_type in MOVING:
            found[target] = found.get(source, source)
        elif fuse and node.op_type in ENDING and reads[source] == 1 and source in made:
            if _is_bounded(made[source], known, weights):
                found[source] = target
    return found


def _is_bounded(node: onnx.NodeProto, known: set[str], weights: set[str]) -> bool:
    """Whether rule D2 may speak for the node's output: `overflows` can tell its reach."""
    given = list(filter(None, node.input))
    if node.op_type == "Add":
        return known | weights >= set(given)
    return node.op_type in FUSED and given[0] in known and weights >= set(given[1:])


def overflows(
    proto: onnx.ModelProto, bounds: Mapping[str, tuple[float, float]], twins: Collection[str]
) -> bool:
    """Whether a tensor of rule D2 could be out of float32's reach, given its inputs' ranges.

    ``twins`` are the tensors that `derived` found; those of rule D1 hold what was watched.
    Bounded by the product of the greatest magnitudes times the number of weights: far from
    tight, and still far from any network that works.
    """
    import onnx

    arrays = {w.name: onnx.numpy_helper.to_array(w) for w in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in FUSED or node.output[0] not in twins:
            continue
        reach = 1.0
        for name in filter(None, node.input):
            if name in arrays:
                greatest = float(np.abs(arrays[name]).max(initial=1.0))
                reach *= greatest * (arrays[name].size + 1)
            else:
                reach *= 2.0 * max(1.0, *(abs(end) for end in bounds[name]))
        if reach > float(np.finfo(np.float32).max):
            return True
    return False


def _finite_weights(proto: onnx.ModelProto) -> set[str]:
    """Name the float weights without NaN and infinity."""
    import onnx

    return {
        weight.name
        for weight in proto.graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT
        and np.isfinite(onnx.numpy_helper.to_array(weight)).all()
    }
