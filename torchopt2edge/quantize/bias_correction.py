"""Correct the biases of a float ONNX for the mean error that quantizing it makes.

Rounding weights and clipping activations shift the mean of a channel. A shift adds up over depth,
where noise averages out: most of all in depthwise convolutions, whose channels have few weights
each (Finkelstein et al. 2019, arXiv:1906.03415; Nagel et al. 2019, arXiv:1906.04721, section 4.2
and appendix D, the empirical form). Each layer's bias takes the difference of the means of its
output before the activation function, float minus quantized, after all layers before it were
corrected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.fake_quant import LIMIT, FakeQuantGraph, fake_quant_graph
from torchopt2edge.quantize.graph.activations import batch_size_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.index import attributes_of, replace_nodes, values_of
from torchopt2edge.quantize.graph.op_types import LAYERS, name_of
from torchopt2edge.quantize.graph.prepare import remove_listed_weights
from torchopt2edge.quantize.quantized_tensors import quantized_tensors
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Facts, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]
Weights = Mapping[str, "TensorProto"]


def correct_bias(
    proto: ModelProto,
    ranges: Ranges,
    samples: Samples,
    limit: int = LIMIT,
    tick: Callable[[int, int], None] | None = None,
) -> tuple[ModelProto, Facts]:
    """Return a copy of a float graph with corrected biases.

    The copy is only right when it is quantized: in float it is off by what quantization will shift
    back. Quantize it with the ranges of the graph that it was made from. A layer that the ranges
    exclude, or whose bias is not a constant with one value per channel, stays as it is.

    Args:
        proto: a prepared float graph.
        ranges: its ranges.
        samples: calibration samples.
        limit: how many of them are run at most.
        tick: called with (done, total) after each level of depth.

    Returns:
        The graph, and facts: ``corrected``, how many layers; ``left``, the layers that stay;
        ``samples``, how many were run.

    Raises:
        DataError: the ranges lack a tensor that is to be rounded.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    remove_listed_weights(copy.graph)
    for node in copy.graph.node:
        node.name = name_of(node)
    tensors = quantized_tensors(copy)
    layers = {
        node.name: node
        for node in copy.graph.node
        if node.op_type in LAYERS and node.name in tensors.ops and node.name not in ranges.excluded
    }
    weights = {weight.name: weight for weight in copy.graph.initializer}
    channels = {name: _channels(node, weights) for name, node in layers.items()}
    sizes = {name: size for name, size in channels.items() if size}
    graph = fake_quant_graph(_instrumented(copy, sizes, weights), tensors)
    probe = Probe(graph, samples, batch_size_of(copy), limit)
    ranks = {name: len(weights[layers[name].input[1]].dims) for name in sizes}
    shifts = _shifts(probe, ranges, list(_levels(copy, sizes)), sizes, ranks, tick)
    for name, shift in shifts.items():
        _add_to_bias(copy, layers[name], shift.ravel())
    drop_unused(copy.graph)
    return copy, {
        "corrected": len(sizes),
        "left": sorted(name for name, size in channels.items() if not size),
        "samples": min(limit, len(samples.manifest.hashes)),
    }


@dataclass(frozen=True)
class Probe:
    """A fake-quantized graph that also returns the mean of every layer's channels.

    Attributes:
        graph: the graph (`_instrumented`).
        samples: the samples to run.
        batch: how many are run at once.
        limit: how many are run in all.
    """

    graph: FakeQuantGraph
    samples: Samples
    batch: int
    limit: int

    def means(
        self, feeds: Mapping[str, Array], shifts: Mapping[str, Array], names: Sequence[str]
    ) -> dict[str, Array]:
        """Return the means of these layers' channels over the samples.

        Nodes behind the layers are not run.
        """
        import onnxruntime as ort

        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        inputs = {**feeds, **{f"shift/{name}": shift for name, shift in shifts.items()}}
        sums: dict[str, Array] = {}
        count = 0
        for batch in self.samples.feeds(self.batch, self.limit):
            size = len(next(iter(batch.values())))
            outputs = [f"mean/{name}" for name in names]
            values = self.graph.session.run(outputs, {**inputs, **batch}, options)
            for name, value in zip(names, values, strict=True):
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64).sum(0)
            count += size
        return {name: total / count for name, total in sums.items()}


def _shifts(
    probe: Probe,
    ranges: Ranges,
    levels: Sequence[Sequence[str]],
    sizes: Mapping[str, int],
    ranks: Mapping[str, int],
    tick: Callable[[int, int], None] | None,
) -> dict[str, Array]:
    """Return what to add to each layer's output, level by level of depth."""
    shifts = {
        name: np.zeros((size, *[1] * (ranks[name] - 2)), np.float32) for name, size in sizes.items()
    }
    all_float = probe.graph.feeds(ranges, probe.graph.tensors.ops)
    wanted = probe.means(all_float, shifts, list(sizes))
    feeds = probe.graph.feeds(ranges)
    for at, level in enumerate(levels):
        for name, mean in probe.means(feeds, shifts, level).items():
            shifts[name] = (wanted[name] - mean).astype(np.float32)
        if tick is not None:
            tick(at + 1, len(levels))
    return shifts


def _channels(node: NodeProto, weights: Weights) -> int:
    """Return how many channels a layer's bias has or would have; 0 when it cannot have one."""
    weight = weights.get(node.input[1])
    if weight is None or node.op_type == "MatMul":
        return 0
    attributes = attributes_of(node)
    if node.op_type == "ConvTranspose":
        size = weight.dims[1] * attributes.get("group", 1)
    elif node.op_type == "Gemm" and not attributes.get("transB"):
        size = weight.dims[1]
    else:
        size = weight.dims[0]
    bias = node.input[2] if len(node.input) > 2 else ""
    fits = not bias or (bias in weights and list(weights[bias].dims) == [size])
    return int(size) if fits else 0


def _levels(proto: ModelProto, sizes: Collection[str]) -> Iterator[list[str]]:
    """Yield the layers by how many layers are before them on the longest path from an input."""
    depth: dict[str, int] = defaultdict(int)
    levels: dict[int, list[str]] = defaultdict(list)
    for node in proto.graph.node:
        before = max((depth[name] for name in node.input), default=0)
        if node.name in sizes:
            levels[before].append(node.name)
            before += 1
        depth.update(dict.fromkeys(node.output, before))
    yield from (levels[at] for at in sorted(levels))


def _instrumented(proto: ModelProto, sizes: Mapping[str, int], weights: Weights) -> ModelProto:
    """Return a copy that adds a fed shift to each layer's output and returns its mean."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name not in sizes:
            continue
        spatial = len(weights[node.input[1]].dims) - 2
        target, raw, name = node.output[0], f"raw/{node.output[0]}", node.name
        node.output[0] = raw
        nodes.append(helper.make_node("Add", [raw, f"shift/{name}"], [target]))
        mean = "GlobalAveragePool" if spatial else "Identity"
        nodes.append(helper.make_node(mean, [target], [f"mean/{name}"]))
        shape = [sizes[name], *[1] * spatial]
        copy.graph.input.append(
            helper.make_tensor_value_info(f"shift/{name}", TensorProto.FLOAT, shape)
        )
        copy.graph.output.append(
            helper.make_tensor_value_info(f"mean/{name}", TensorProto.FLOAT, None)
        )
    replace_nodes(copy.graph, nodes)
    return copy


def _add_to_bias(proto: ModelProto, node: NodeProto, shift: Array) -> None:
    """Give a layer a bias of its own: the sum of its bias, which others may share, and a shift."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in proto.graph.initializer}
    beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
    bias = shift / np.float32(beta or 1.0)
    if len(node.input) > 2 and node.input[2]:
        bias = bias + values_of(weights[node.input[2]])
    name = f"{node.name}/corrected"
    while name in weights:
        name += "_"
    del node.input[2:]
    node.input.append(name)
    proto.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
