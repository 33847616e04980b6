"""Judge an int8 graph on held-out calibration samples, in ONNX Runtime on the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Validation:
    """The float graph and the samples on which its quantized forms are judged.

    With labels the metric is top-1, and a drop is in points of it; without, a drop is the share
    (per cent) of samples whose arg-max is no longer the float graph's, which bounds it from above.
    On a host without VNNI the integer kernels saturate, and drops come out too large.
    """

    graph: Path
    samples: Samples

    @property
    def metric(self) -> str:
        """What a drop is measured in."""
        return "agreement" if self.samples.labels is None else "top1"

    def drop(self, ranges: Ranges) -> float:
        """Return how much worse the graph answers when it is quantized with these ranges.

        Raises:
            DataError: the graph gives no row of scores to judge.
        """
        from torchopt2edge.quantize.qdq_writer import Types, quantize_graph

        answers = _answers(quantize_graph(self.graph, ranges, Types()), self.samples)
        labels = self.samples.labels
        if labels is None:
            return 100.0 * float(np.mean(answers != self._float))
        return 100.0 * (float(np.mean(self._float == labels)) - float(np.mean(answers == labels)))

    @cached_property
    def _float(self) -> Array:
        import onnx

        return _answers(onnx.load(self.graph), self.samples)


def _answers(proto: Any, samples: Samples) -> Array:
    """Return the arg-max of the first output for every sample."""
    from torchopt2edge.quantize.graph.activations import batch_of
    from torchopt2edge.quantize.graph.host_session import host_session

    session = host_session(proto)
    first = session.get_outputs()[0].name
    found = [session.run([first], batch)[0] for batch in samples.batches(batch_of(proto))]
    if found[0].ndim != 2:
        raise DataError(
            f"max_drop needs a row of scores per sample, the first output is {found[0].shape}",
            hint="leave quantize.max_drop out and name quantize.exclude=[node,…] yourself",
        )
    answers: Array = np.concatenate(found).argmax(axis=1)
    return answers
