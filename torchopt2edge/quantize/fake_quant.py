"""Run a float ONNX as if it were quantized, with any ranges and any operators left in float.

Every tensor that a runtime would hold as integers goes through QuantizeLinear and DequantizeLinear
whose scale and zero point are inputs of the graph, behind a switch that is an input too. Weights
are inputs, rounded in numpy. So a set of ranges or of excluded operators costs one run over the
samples, and neither a file nor a session of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.quantize.graph.activations import batch_size_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.index import replace_nodes, values_of
from torchopt2edge.quantize.graph.op_types import name_of
from torchopt2edge.quantize.graph.prepare import remove_listed_weights
from torchopt2edge.quantize.qparams import quant_params, quantize_weight
from torchopt2edge.quantize.quantized_tensors import (
    GRAPH_OUTPUT,
    QuantizedTensors,
    RoundedTensor,
    quantized_tensors,
)
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.stats.columns import Columns, column_groups
from torchopt2edge.stats.sqnr import mean_sqnr_db, sqnr_per_sample_db
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Array = np.ndarray[Any, Any]
LIMIT = 32
VALUES = 2**16  # of one output that are compared per sample
TYPE = "uint8"
OPSET = 13  # the first with QuantizeLinear per axis


@dataclass(frozen=True)
class FakeQuantGraph:
    """A float graph with a switch at every tensor and weight that can be integer.

    Attributes:
        tensors: what is quantized.
        session: the open graph.
        outputs: the session's name of each output of the float graph.
        weights: by input of the session the node that reads it, and its values in float and
            rounded.
    """

    tensors: QuantizedTensors
    session: Any
    outputs: Mapping[str, str]
    weights: Mapping[str, tuple[str, Array, Array]]

    def feeds(self, ranges: Ranges, floating: Collection[str] = ()) -> dict[str, Array]:
        """Return the inputs that quantize all operators but some.

        Args:
            ranges: the ranges of the activations; nodes in its ``excluded`` stay in float.
            floating: more nodes that stay in float.

        Raises:
            DataError: the ranges lack a tensor that is to be rounded.
        """
        off = {*floating, *ranges.excluded}
        feeds = {
            name: exact if node in off else rounded
            for name, (node, exact, rounded) in self.weights.items()
        }
        for at, tensor in enumerate(self.tensors.rounded):
            on = not tensor.ops <= off
            low, high = self._bounds(tensor.tensor, ranges) if on else (0.0, 1.0)
            params = quant_params(low, high, TYPE)
            feeds[f"on/{at}"] = np.array(on)
            feeds[f"scale/{at}"] = np.array(params.scale, np.float32)
            feeds[f"zero/{at}"] = np.array(params.zero_point, TYPE)
        return feeds

    def _bounds(self, tensor: str, ranges: Ranges) -> tuple[float, float]:
        while tensor in self.tensors.same_scale:
            tensor = self.tensors.same_scale[tensor]
        if tensor not in ranges.bounds:
            raise DataError(
                f"there is no range for the tensor {tensor!r}",
                hint="calibrate the graph that is quantized, or exclude the ops at that tensor",
            )
        return ranges.bounds[tensor]


@dataclass(frozen=True)
class Simulation:
    """A fake-quantized graph, samples, and the float outputs to compare with.

    Attributes:
        graph: the graph.
        samples: the samples.
        batch: how many are run at once.
        limit: how many are run in all.
        reference: the float outputs of each batch, arrays [samples, values] (`_parts`): one for
            each output, or for each group of its columns that differ in meaning.
        columns: the groups of an output whose columns do.
    """

    graph: FakeQuantGraph
    samples: Samples
    batch: int
    limit: int
    reference: tuple[Mapping[str, Array], ...]
    columns: Mapping[str, Sequence[Columns]]

    @property
    def ops(self) -> tuple[str, ...]:
        """The names of the nodes that can be quantized, in the graph's order."""
        return tuple(self.graph.tensors.ops)

    @property
    def count(self) -> int:
        """How many samples are run."""
        return sum(len(next(iter(batch.values()))) for batch in self._batches())

    def sqnr(self, ranges: Ranges, floating: Collection[str] = ()) -> float:
        """Return the SQNR at the worst output or columns, averaged over the samples.

        Args:
            ranges: the ranges of the activations; nodes in its ``excluded`` stay in float.
            floating: more nodes that stay in float.

        Returns:
            Decibels, -20 to 100.

        Raises:
            DataError: the ranges lack a tensor that is to be rounded.
        """
        feeds = self.graph.feeds(ranges, floating)
        ratios: dict[str, list[Array]] = {name: [] for name in self.reference[0]}
        for batch, reference in zip(self._batches(), self.reference, strict=True):
            for name, value in _parts(self.outputs(feeds, batch), self.columns).items():
                ratios[name].append(sqnr_per_sample_db(reference[name], value))
        return min(mean_sqnr_db(np.concatenate(parts)) for parts in ratios.values())

    def outputs(self, feeds: Mapping[str, Array], batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the float outputs of one batch of samples, given `FakeQuantGraph.feeds`."""
        names = {name: self.graph.outputs[name] for name in self.names}
        values = self.graph.session.run(list(names.values()), {**feeds, **batch})
        return dict(zip(names, values, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """The float outputs."""
        return tuple(self.columns)

    def _batches(self) -> Iterator[dict[str, Array]]:
        return self.samples.feeds(self.batch, self.limit)


def simulation(
    proto: ModelProto, samples: Samples, limit: int = LIMIT, reference: ModelProto | None = None
) -> Simulation:
    """Prepare the simulation of a graph.

    Args:
        proto: a prepared float graph.
        samples: calibration samples.
        limit: how many of them are run at most.
        reference: the float graph whose outputs are right, if it is another one: the graph before
            its biases were corrected, for instance.

    Raises:
        DataError: no output is float.
    """
    import onnx

    truth = proto if reference is None else reference
    names = [
        value.name
        for value in truth.graph.output
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    if not names:
        raise DataError("no output of this graph is float: its quantization noise has no measure")
    session, size = host_session(truth), batch_size_of(proto)
    columns: dict[str, Sequence[Columns]] = {}
    outputs = []
    for batch in samples.feeds(size, limit):
        values = dict(zip(names, session.run(names, batch), strict=True))
        columns = columns or {name: column_groups(value) for name, value in values.items()}
        outputs.append(_parts(values, columns))
    graph = fake_quant_graph(proto, quantized_tensors(proto))
    return Simulation(graph, samples, size, limit, tuple(outputs), columns)


def fake_quant_graph(proto: ModelProto, tensors: QuantizedTensors) -> FakeQuantGraph:
    """Add the switches to a copy of a float graph and open it.

    Args:
        proto: a prepared float graph.
        tensors: what is quantized in it.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if copy.opset_import[0].version < OPSET:
        copy = onnx.version_converter.convert_version(copy, OPSET)
    remove_listed_weights(copy.graph)
    weights = _feed_weights(copy.graph, tensors)
    outputs = _add_switches(copy.graph, tensors)
    for value in copy.graph.output:
        value.name = outputs[value.name]
    del copy.graph.value_info[:]
    return FakeQuantGraph(tensors, host_session(copy), outputs, weights)


def _feed_weights(
    graph: GraphProto, tensors: QuantizedTensors
) -> dict[str, tuple[str, Array, Array]]:
    """Make an input of every constant that is read as integers, one per node that reads it."""
    from onnx import TensorProto, helper

    initializers = {weight.name: weight for weight in graph.initializer}
    nodes = {name_of(node): node for node in graph.node}
    weights = {}
    for constant in tensors.constants:
        exact = values_of(initializers[constant.name])
        name = f"weight/{constant.node}/{constant.index}"
        nodes[constant.node].input[constant.index] = name
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, exact.shape))
        weights[name] = (constant.node, exact, _rounded(exact, constant.axis))
    drop_unused(graph)
    return weights


def _rounded(weight: Array, axis: int | None) -> Array:
    """Quantize and dequantize a weight: symmetrically per channel, or as an activation."""
    if axis is not None:
        quantized, scales = quantize_weight(weight, axis)
        shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
        return np.asarray(quantized * scales.reshape(shape), np.float32)
    params = quant_params(weight.min(initial=0.0), weight.max(initial=0.0), TYPE)
    integers = params.quantize(weight).astype(int)
    return np.asarray((integers - params.zero_point) * params.scale, np.float32)


def _add_switches(graph: GraphProto, tensors: QuantizedTensors) -> dict[str, str]:
    """Add a switch for every rounded tensor; return the new names of the graph's outputs."""
    from onnx import TensorProto, helper

    switches: dict[str, list[Any]] = defaultdict(list)
    seen_as = {}
    for at, tensor in enumerate(tensors.rounded):
        switches[tensor.tensor].append(_switch(at, tensor))
        seen_as.update({(reader, tensor.tensor): f"seen/{at}" for reader in tensor.readers})
    nodes = [node for value in graph.input for node in switches[value.name]]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = seen_as.get((name_of(node), name), name)
        nodes += [node, *(switch for name in node.output for switch in switches[name])]
    replace_nodes(graph, nodes)
    dtypes = {"on": TensorProto.BOOL, "scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
    graph.input.extend(
        helper.make_tensor_value_info(f"{part}/{at}", dtype, [])
        for at in range(len(tensors.rounded))
        for part, dtype in dtypes.items()
    )
    names = [value.name for value in graph.output]
    return {name: seen_as.get((GRAPH_OUTPUT, name), name) for name in names}


def _switch(at: int, tensor: RoundedTensor) -> Any:
    """Return the node that passes a tensor on rounded or as it is; one of both is computed."""
    from onnx import TensorProto, helper

    integers, rounded, same = (f"{part}/{at}" for part in ("integers", "rounded", "same"))
    params = [f"scale/{at}", f"zero/{at}"]
    quantize = [
        helper.make_node("QuantizeLinear", [tensor.tensor, *params], [integers]),
        helper.make_node("DequantizeLinear", [integers, *params], [rounded]),
    ]
    leave = [helper.make_node("Identity", [tensor.tensor], [same])]
    branches = {
        f"{branch}_branch": helper.make_graph(
            nodes, branch, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)]
        )
        for branch, nodes, result in (("then", quantize, rounded), ("else", leave, same))
    }
    return helper.make_node("If", [f"on/{at}"], [f"seen/{at}"], **branches)


def _parts(
    values: Mapping[str, Array], columns: Mapping[str, Sequence[Columns]]
) -> dict[str, Array]:
    """Return each output, or each group of its columns, as [samples, values]."""
    return {
        f"{name}, {group}" if group else name: _thinned(group.of(value) if group else value)
        for name, value in values.items()
        for group in columns[name] or (None,)
    }


def _thinned(value: Array) -> Array:
    """Return [samples, values]: all values, or evenly spaced ones of an output that has many."""
    rows = value.reshape(len(value) if value.ndim else 1, -1)
    step = -(-rows.shape[1] // VALUES) | 1  # odd, so that it does not follow a single column
    return np.array(rows[:, ::step])
