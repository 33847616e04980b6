"""Judge an int8 graph on held-out calibration samples, in ONNX Runtime on the host."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import DataError
from torchopt2edge.quantize.graph.activations import batch_size_of
from torchopt2edge.quantize.graph.host_session import host_session
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.types import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Validation:
    """A float graph and the samples on which its quantized forms are judged.

    With labels the metric is top-1, and a drop is in points of it. Without, a drop is the share
    (per cent) of samples whose arg-max is no longer the float graph's, which bounds it from above.
    On a host without VNNI the integer kernels saturate, and drops come out too large.

    Attributes:
        proto: the prepared float graph.
        samples: the held-out samples.
    """

    proto: ModelProto
    samples: Samples

    @property
    def metric(self) -> str:
        """What a drop is measured in: ``top1`` or ``agreement``."""
        return "agreement" if self.samples.labels is None else "top1"

    def drop(self, ranges: Ranges) -> float:
        """Return by how many points the graph is worse when it is quantized with these ranges.

        Raises:
            DataError: the first output is not a row of scores per sample.
        """
        from torchopt2edge.quantize.qdq_writer import IntegerTypes, quantize_graph

        quantized = quantize_graph(self.proto, ranges, IntegerTypes())
        predictions, labels = _predictions(quantized, self.samples), self.samples.labels
        if labels is None:
            return 100.0 * float(np.mean(predictions != self._float))
        correct = float(np.mean(predictions == labels))
        return 100.0 * (float(np.mean(self._float == labels)) - correct)

    @cached_property
    def _float(self) -> Array:
        return _predictions(self.proto, self.samples)


def _predictions(proto: ModelProto, samples: Samples) -> Array:
    """Return the arg-max of the first output for every sample."""
    session = host_session(proto)
    first = session.get_outputs()[0].name
    batches = samples.feeds(batch_size_of(proto))
    scores = [session.run([first], batch)[0] for batch in batches]
    if scores[0].ndim != 2:
        raise DataError(
            f"max_drop needs a row of scores per sample, the first output is {scores[0].shape}",
            hint="leave quantize.max_drop out and name quantize.exclude=[node,…] yourself",
        )
    return np.asarray(np.concatenate(scores).argmax(axis=1))
