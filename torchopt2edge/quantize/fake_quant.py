"""Run a float ONNX as if it were quantized: any ranges, any ops left in float, in one session.

Every tensor that a runtime would hold as integers goes through QuantizeLinear and
DequantizeLinear whose scale and zero point are inputs of the graph, behind a switch that is an
input too; weights are inputs, rounded in numpy. So a set of ranges or a set of excluded ops costs
one run over the samples, and neither a file nor a session of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.quantize.calibrate import batch_of
from torchopt2edge.quantize.graph.canonicalize import drop_unused
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.quantize.graph.op_types import name_of
from torchopt2edge.quantize.qparams import grid_of, weight_codes
from torchopt2edge.quantize.quantized_tensors import END, Placement, Spot, placement
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.stats.sqnr import mean_sqnr_db, sqnr_per_sample_db
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Array = np.ndarray[Any, Any]
LIMIT = 32
VALUES = 2**16  # of one output, that are compared per sample
TYPE = "uint8"
OPSET = 13  # per-axis and zero points as they are today


@dataclass(frozen=True)
class Circuit:
    """A float graph with a switch at every tensor and weight that can be integer.

    ``outputs`` maps the float graph's outputs to the session's; ``weights`` an input of the
    session to its node and its values in float and rounded.
    """

    plan: Placement
    session: Any
    outputs: Mapping[str, str]
    weights: Mapping[str, tuple[str, Array, Array]]

    def settings(self, ranges: Ranges, floating: Collection[str] = ()) -> dict[str, Array]:
        """Return the feeds that quantize all ops but ``floating`` and the ranges' ``excluded``.

        Raises:
            DataError: the ranges lack a tensor that is to be rounded.
        """
        off = {*floating, *ranges.excluded}
        feeds = {
            name: exact if node in off else rounded
            for name, (node, exact, rounded) in self.weights.items()
        }
        for at, spot in enumerate(self.plan.spots):
            on = not spot.by <= off
            grid = grid_of(*(self._bounds(spot.tensor, ranges) if on else (0.0, 1.0)), TYPE)
            feeds[f"on/{at}"] = np.array(on)
            feeds[f"scale/{at}"] = np.array(grid.scale, np.float32)
            feeds[f"zero/{at}"] = np.array(grid.zero_point, TYPE)
        return feeds

    def _bounds(self, tensor: str, ranges: Ranges) -> tuple[float, float]:
        while tensor in self.plan.same:
            tensor = self.plan.same[tensor]
        if tensor not in ranges.bounds:
            raise DataError(
                f"the ranges hold nothing for the tensor {tensor!r}",
                mend="calibrate the graph that is quantized, or exclude the ops at that tensor",
            )
        return ranges.bounds[tensor]


@dataclass(frozen=True)
class Simulation:
    """A float graph, its samples and what is compared of its float outputs on them.

    ``reference`` holds one dict per batch, of arrays [samples, values] (`_thinned`).
    """

    circuit: Circuit
    samples: Samples
    batch: int
    limit: int
    reference: tuple[Mapping[str, Array], ...]

    @property
    def ops(self) -> tuple[str, ...]:
        """The names of the nodes that can be quantized, in the graph's order."""
        return tuple(self.circuit.plan.ops)

    @property
    def count(self) -> int:
        """How many samples are run."""
        return sum(len(next(iter(batch.values()))) for batch in self._batches())

    def sqnr(self, ranges: Ranges, floating: Collection[str] = ()) -> float:
        """Return the signal-to-quantization-noise ratio in dB, at the worst output.

        The ratio is taken per sample and averaged (`stats.sqnr.mean_sqnr_db`). ``floating`` names
        nodes that stay in float, as ``ranges.excluded`` do.

        Raises:
            DataError: the ranges lack a tensor that is to be rounded.
        """
        settings = self.circuit.settings(ranges, floating)
        found: dict[str, list[Array]] = {name: [] for name in self.reference[0]}
        for batch, wanted in zip(self._batches(), self.reference, strict=True):
            for name, value in self.outputs(settings, batch).items():
                found[name].append(sqnr_per_sample_db(wanted[name], _thinned(value)))
        return min(mean_sqnr_db(np.concatenate(parts)) for parts in found.values())

    def outputs(
        self, settings: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Compute the float outputs of one batch under these settings."""
        names = {name: self.circuit.outputs[name] for name in self.reference[0]}
        values = self.circuit.session.run(list(names.values()), {**settings, **batch})
        return dict(zip(names, values, strict=True))

    def _batches(self) -> Iterator[dict[str, Array]]:
        return self.samples.batches(self.batch, self.limit)


def simulation(
    graph: Path, samples: Samples, limit: int = LIMIT, reference: Path | None = None
) -> Simulation:
    """Prepare the simulation of a prepared float ONNX on up to ``limit`` samples.

    ``reference`` is the float graph whose outputs are right, when that is not ``graph`` itself:
    the one before its biases were corrected, say.

    Raises:
        DataError: no output is float.
    """
    import onnx

    proto = onnx.load(graph)
    truth = proto if reference is None else onnx.load(reference)
    names = [
        value.name
        for value in truth.graph.output
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    if not names:
        raise DataError("no output of this graph is float: quantization noise has no measure there")
    session, size = host_session(truth), batch_of(proto)
    wanted = tuple(
        dict(zip(names, map(_thinned, session.run(names, batch)), strict=True))
        for batch in samples.batches(size, limit)
    )
    return Simulation(circuit(proto, placement(proto)), samples, size, limit, wanted)


def circuit(proto: ModelProto, plan: Placement) -> Circuit:
    """Put the switches of ``plan`` into a copy of the graph and open it."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if copy.opset_import[0].version < OPSET:
        copy = onnx.version_converter.convert_version(copy, OPSET)
    unlist(copy.graph)
    weights = _free_weights(copy.graph, plan)
    outputs = _switch_tensors(copy.graph, plan)
    for value in copy.graph.output:
        value.name = outputs[value.name]
    del copy.graph.value_info[:]
    return Circuit(plan, host_session(copy), outputs, weights)


def _free_weights(graph: GraphProto, plan: Placement) -> dict[str, tuple[str, Array, Array]]:
    """Make an input of every constant that is read as integers, one per node that reads it."""
    from onnx import TensorProto, helper, numpy_helper

    held = {weight.name: weight for weight in graph.initializer}
    nodes = {name_of(node): node for node in graph.node}
    weights = {}
    for constant in plan.constants:
        exact = numpy_helper.to_array(held[constant.name])
        name = f"weight/{constant.node}/{constant.index}"
        nodes[constant.node].input[constant.index] = name
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, exact.shape))
        weights[name] = (constant.node, exact, _rounded(exact, constant.axis))
    drop_unused(graph)
    return weights


def _rounded(weight: Array, axis: int | None) -> Array:
    """Send a weight through its grid: symmetric per channel, or that of an activation."""
    if axis is not None:
        codes, scales = weight_codes(weight, axis)
        shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
        return np.asarray(codes * scales.reshape(shape), np.float32)
    grid = grid_of(weight.min(initial=0.0), weight.max(initial=0.0), TYPE)
    return np.asarray((grid.codes(weight).astype(int) - grid.zero_point) * grid.scale, np.float32)


def unlist(graph: GraphProto) -> None:
    """Take weights off the list of inputs, where old files have them."""
    held = {weight.name for weight in graph.initializer}
    kept = [value for value in graph.input if value.name not in held]
    del graph.input[:]
    graph.input.extend(kept)


def _switch_tensors(graph: GraphProto, plan: Placement) -> dict[str, str]:
    """Put a switch at every spot; return what the graph gives out instead of its outputs."""
    from onnx import TensorProto, helper

    made: dict[str, list[Any]] = defaultdict(list)
    seen = {}
    for at, spot in enumerate(plan.spots):
        made[spot.tensor].append(_switch(at, spot))
        seen.update({(reader, spot.tensor): f"seen/{at}" for reader in spot.readers})
    nodes = [node for value in graph.input for node in made[value.name]]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = seen.get((name_of(node), name), name)
        nodes += [node, *(switch for name in node.output for switch in made[name])]
    kept = [*nodes]
    del graph.node[:]
    graph.node.extend(kept)
    kinds = {"on": TensorProto.BOOL, "scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
    graph.input.extend(
        helper.make_tensor_value_info(f"{part}/{at}", kind, [])
        for at in range(len(plan.spots))
        for part, kind in kinds.items()
    )
    return {value.name: seen.get((END, value.name), value.name) for value in graph.output}


def _switch(at: int, spot: Spot) -> Any:
    """Return the node that gives out a tensor rounded or as it is; only one of both is run."""
    from onnx import TensorProto, helper

    whole, rounded, kept = (f"{part}/{at}" for part in ("whole", "rounded", "kept"))
    grid = [f"scale/{at}", f"zero/{at}"]
    quantize = [
        helper.make_node("QuantizeLinear", [spot.tensor, *grid], [whole]),
        helper.make_node("DequantizeLinear", [whole, *grid], [rounded]),
    ]
    leave = [helper.make_node("Identity", [spot.tensor], [kept])]
    branches = {
        f"{branch}_branch": helper.make_graph(
            nodes, branch, [], [helper.make_tensor_value_info(made, TensorProto.FLOAT, None)]
        )
        for branch, nodes, made in (("then", quantize, rounded), ("else", leave, kept))
    }
    return helper.make_node("If", [f"on/{at}"], [f"seen/{at}"], **branches)


def _thinned(value: Array) -> Array:
    """Return [samples, values]: all of them, or evenly spread ones of a map that holds many."""
    rows = value.reshape(len(value) if value.ndim else 1, -1)
    step = -(-rows.shape[1] // VALUES) | 1  # odd, so that it does not walk along one column
    return np.array(rows[:, ::step])
