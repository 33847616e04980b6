"""Correct the biases of a float ONNX for the mean error that quantizing it makes.

Rounding weights and clipping activations shift the mean of a channel, and a shift adds up over
depth where noise averages out: most of all in depthwise convolutions, whose channels have few
weights each (Finkelstein et al. 2019, arXiv:1906.03415; Nagel et al. 2019, arXiv:1906.04721,
section 4.2 and appendix D, the empirical form). Each layer's bias takes up the difference of the
means of its output before the activation, float minus quantized, after all layers before it were
corrected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.quantize.fake_quant import LIMIT, Circuit, circuit, unlist
from torchopt2edge.quantize.graph.activations import batch_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.op_types import LAYERS, name_of
from torchopt2edge.quantize.quantized_tensors import placement
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Facts, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Array = np.ndarray[Any, Any]


def correct_bias(
    graph: Path,
    ranges: Ranges,
    samples: Samples,
    out: Path,
    limit: int = LIMIT,
    tick: Callable[[int, int], None] | None = None,
) -> Facts:
    """Write the float graph with corrected biases to ``out``; say how many.

    What is written is only right when it is quantized: in float it is off by what quantization
    will shift back, and the ranges of the graph it was made from are the ones to quantize it
    with. Up to ``limit`` samples are used. A layer that the ranges exclude, or whose bias is no
    constant with one value per channel, stays as it is. ``tick`` is told (done, total) per level
    of depth.

    Raises:
        DataError: the ranges lack a tensor that is to be rounded.
    """
    import onnx

    proto = onnx.load(graph)
    unlist(proto.graph)
    for node in proto.graph.node:
        node.name = name_of(node)
    plan = placement(proto)
    layers = {
        node.name: node
        for node in proto.graph.node
        if node.op_type in LAYERS and node.name in plan.ops and node.name not in ranges.excluded
    }
    held = {weight.name: weight for weight in proto.graph.initializer}
    found = {name: _size(node, held) for name, node in layers.items()}
    sizes = {name: size for name, size in found.items() if size}
    probe = Probe(circuit(_instrumented(proto, sizes, held), plan), samples, batch_of(proto), limit)
    levels = list(_levels(proto, sizes))
    shifts = {
        name: np.zeros((size, *[1] * (len(held[layers[name].input[1]].dims) - 2)), np.float32)
        for name, size in sizes.items()
    }
    wanted = probe.means(probe.circuit.settings(ranges, plan.ops), shifts, list(sizes))
    settings = probe.circuit.settings(ranges)
    for at, level in enumerate(levels):
        for name, mean in probe.means(settings, shifts, level).items():
            shifts[name] = (wanted[name] - mean).astype(np.float32)
        if tick is not None:
            tick(at + 1, len(levels))
    for name, shift in shifts.items():
        _add(proto, layers[name], shift.ravel())
    drop_unused(proto.graph)
    onnx.save(proto, out)
    return {
        "corrected": len(sizes),
        "left": sorted(name for name, size in found.items() if not size),
        "samples": min(limit, len(samples.manifest.hashes)),
    }


@dataclass(frozen=True)
class Probe:
    """A circuit that also gives out the mean of every layer's channels, run over samples."""

    circuit: Circuit
    samples: Samples
    batch: int
    limit: int

    def means(
        self, settings: Mapping[str, Array], shifts: Mapping[str, Array], names: Sequence[str]
    ) -> dict[str, Array]:
        """Return the mean of these layers' channels over the samples; nothing behind is run."""
        import onnxruntime as ort

        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        feeds = {**settings, **{f"shift/{name}": shift for name, shift in shifts.items()}}
        sums: dict[str, Array] = {}
        count = 0
        for batch in self.samples.batches(self.batch, self.limit):
            size = len(next(iter(batch.values())))
            fetched = [f"mean/{name}" for name in names]
            values = self.circuit.session.run(fetched, {**feeds, **batch}, options)
            for name, value in zip(names, values, strict=True):
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64).sum(0)
            count += size
        return {name: total / count for name, total in sums.items()}


def _size(node: NodeProto, held: Mapping[str, TensorProto]) -> int:
    """Return how many channels a layer's bias has or would have; 0 when it cannot have one."""
    weight = held.get(node.input[1])
    if weight is None or node.op_type == "MatMul":
        return 0
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        size = weight.dims[1] * (given["group"].i if "group" in given else 1)
    elif node.op_type == "Gemm" and not ("transB" in given and given["transB"].i):
        size = weight.dims[1]
    else:
        size = weight.dims[0]
    bias = node.input[2] if len(node.input) > 2 else ""
    fits = not bias or (bias in held and list(held[bias].dims) == [size])
    return int(size) if fits else 0


def _levels(proto: ModelProto, sizes: Collection[str]) -> Iterator[list[str]]:
    """Yield the layers by how many layers lie before them on the longest way from an input."""
    depth: dict[str, int] = defaultdict(int)
    levels: dict[int, list[str]] = defaultdict(list)
    for node in proto.graph.node:
        before = max((depth[name] for name in node.input), default=0)
        if node.name in sizes:
            levels[before].append(node.name)
            before += 1
        depth.update(dict.fromkeys(node.output, before))
    yield from (levels[at] for at in sorted(levels))


def _instrumented(
    proto: ModelProto, sizes: Mapping[str, int], held: Mapping[str, TensorProto]
) -> ModelProto:
    """Return a copy in which each layer's output takes a shift that is fed, and gives its mean."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name not in sizes:
            continue
        places = len(held[node.input[1]].dims) - 2
        made, raw, name = node.output[0], f"raw/{node.output[0]}", node.name
        node.output[0] = raw
        nodes.append(helper.make_node("Add", [raw, f"shift/{name}"], [made]))
        mean = "GlobalAveragePool" if places else "Identity"
        nodes.append(helper.make_node(mean, [made], [f"mean/{name}"]))
        shape = [sizes[name], *[1] * places]
        shift = helper.make_tensor_value_info(f"shift/{name}", TensorProto.FLOAT, shape)
        copy.graph.input.append(shift)
        given = helper.make_tensor_value_info(f"mean/{name}", TensorProto.FLOAT, None)
        copy.graph.output.append(given)
    kept = [*nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _add(proto: ModelProto, node: NodeProto, shift: Array) -> None:
    """Give a layer a bias of its own: the one it had, which others may share, and the shift."""
    from onnx import numpy_helper

    held = {weight.name: weight for weight in proto.graph.initializer}
    beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
    bias = shift / np.float32(beta or 1.0)
    if len(node.input) > 2 and node.input[2]:
        bias = bias + numpy_helper.to_array(held[node.input[2]])
    name = f"{node.name}/corrected"
    while name in held:
        name += "_"
    del node.input[2:]
    node.input.append(name)
    proto.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
