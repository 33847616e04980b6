"""Quantization-aware training around a loop of the user's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from torchopt2edge.errors import ConfigError
from torchopt2edge.models import count
from torchopt2edge.quantize.qat_ranges import learned
from torchopt2edge.quantize.qdq_reader import split
from torchopt2edge.stages.export import onnx_of, write_export
from torchopt2edge.stages.parity import named_outputs
from torchopt2edge.stages.qat_program import Trainee, convert, floating, prepare, refuse_other
from torchopt2edge.stages.torch_export import enough, input_names, program_of, trace_of
from torchopt2edge.types import Facts, Ranges

_LOG = logging.getLogger("torchopt2edge")
_OPSET = 18
_ROUNDING_DB = 15.0  # converted against fake-quantized: values on an edge may fall to either side


@dataclass(frozen=True)
class Learned:
    """What training with quantization made.

    ``onnx`` is the float graph with its weights on the trained grid; beside it lie
    ``ranges.json``, ``signature.json`` and ``model.pt2``, the same net for torch.
    """

    onnx: Path
    ranges: Ranges
    facts: Facts


class QatSession:
    """A net under quantization-aware training: train ``model``, then `finish`."""

    def __init__(self, model: Trainee, source: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.model = model
        self._source = source
        self._inputs = inputs

    def calibrate(self, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
        """Start the ranges from batches of inputs, seen by the float net: fewer epochs will do."""
        device = next(self.model.parameters()).device
        tuples = (batch if isinstance(batch, tuple | list) else (batch,) for batch in batches)
        self.model.calibrate(tuple(value.to(device) for value in batch) for batch in tuples)

    def freeze_batch_norm(self) -> None:
        """Keep the statistics of batch normalization from now on: do so for the last epochs."""
        self.model.freeze_batch_norm()

    def freeze_observers(self) -> None:
        """Keep the ranges of activations from now on: do so for the last epoch or two."""
        self.model.freeze_observers()

    def finish(self, out: str | Path = "qat") -> Learned:
        """Write the trained net into the folder ``out``; it can be trained on afterwards.

        Raises:
            TrainError: it never ran in train mode.
            ExportError: it cannot be exported, or the export computes something else.
        """
        folder = Path(out)
        converted = convert(self.model, self._inputs)
        net = floating(converted)
        inputs = self._inputs
        with torch.no_grad():
            device = next(self.model.parameters()).device
            mode = self.model.training
            trained = self.model.eval()(*(value.to(device) for value in inputs.values()))
            self.model.train(mode)
            wanted = {name: value.cpu() for name, value in named_outputs(trained).items()}
            refuse_other(wanted, named_outputs(converted(*inputs.values())), _ROUNDING_DB)
        program, _ = program_of(converted, inputs)
        proto, bounds = split(onnx_of(program, list(inputs), list(wanted), _OPSET))
        facts = write_export(net, trace_of(net, inputs), folder, _OPSET, proto)
        facts |= {"params": count.params(self._source), "learned": len(bounds)}
        facts.pop("macs", None)  # the traced net has no layers to count
        ranges = learned(bounds)
        (folder / "ranges.json").write_text(json.dumps(ranges.to_json(), indent=1))
        return Learned(folder / "model.onnx", ranges, facts)


@contextmanager
def qat(
    model: nn.Module, example_inputs: tuple[Tensor, ...] | Tensor, *, weight_bits: int = 8
) -> Iterator[QatSession]:
    """Prepare a copy of ``model`` for quantization-aware training with any loop.

    ::

        with torchopt2edge.qat(net, (images,)) as q:
            q.calibrate(batches)
            optimizer = torch.optim.SGD(q.model.parameters(), lr=1e-3, momentum=0.9)
            ...  # any loop over q.model; q.freeze_batch_norm(), q.freeze_observers() near its end
            result = q.finish("qat")
        torchopt2edge.compare(result.onnx, ...)

    Args:
        model: a float net; batch normalization belongs in it, unfolded.
        example_inputs: real inputs, batch first; four or more make the parity check worth
            something.
        weight_bits: 2 to 8; fewer than 8 still make int8 files, of weights that take fewer values.

    Raises:
        ExportError: the net cannot be traced with a free batch.
        ConfigError: no inputs, or bits out of range.
    """
    given = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not given:
        raise ConfigError("there are no example inputs", hint="qat(model, (images,))")
    names = input_names(model, len(given))
    inputs = {name: value.detach().cpu() for name, value in zip(names, given, strict=True)}
    session = QatSession(prepare(model, enough(inputs, 2), weight_bits), model, enough(inputs, 4))
    try:
        yield session
    finally:
        session.model.eval()
