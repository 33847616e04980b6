"""Layouts are measured, not believed.

The file is run against ONNX Runtime on one random input, and the permutation of axes under which
the values agree is the one that is written down. (onnx2tf brings inputs of 3 to 5 axes to
channels-last, except when it thinks better of it; outputs come out either way.)

Also copied beside ``child.py``, with ``stats/sqnr.py``: standard library, numpy, onnxruntime and
ai-edge-litert only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from torchopt2edge.stats.sqnr import LIMIT_DB, sqnr_db

# A float conversion reaches 95 dB and more. onnx2tf 2.6.9 came to 43 dB on a network whose
# BatchNorm scale it applied along the wrong axis (as many channels as rows, ran): not merely lossy.
GOOD_DB = 60.0
POOR_INTEGER_DB = 10.0  # labels flip on near ties
MAX_LAYOUTS = 16
LIKELIER_DB = 6.0  # a less likely layout must be so much better: two poor ones prove nothing

Array = np.ndarray[Any, Any]
Record = dict[str, Any]


def permutations(source: tuple[int, ...], file: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the axis orders that turn the source's shape into the file's, likeliest first."""
    rank = len(source)
    if rank != len(file):
        return []
    identity = tuple(range(rank))
    channels_last = (0, *range(2, rank), 1) if 3 <= rank <= 5 else identity
    likely = [channels_last, identity, *(itertools.permutations(identity) if rank <= 5 else ())]
    fits = [perm for perm in likely if tuple(source[axis] for axis in perm) == tuple(file)]
    return list(dict.fromkeys(fits))


_PASSING = ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose")
_WHOLE = {"uint8": 256, "int8": 128, "bool": 2}


def integer_limits(model: Any) -> dict[str, int]:
    """Return by tensor below what its integers must stay: the length of the table they index."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    limits: dict[str, int] = {}
    for node in reversed(model.graph.node):
        if node.op_type == "Gather" and node.input[0] in sizes:
            axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
            found = sizes[node.input[0]][axis]
        elif node.op_type in _PASSING and node.output[0] in limits:
            found = limits[node.output[0]]
        else:
            continue
        name = node.input[1 if node.op_type == "Gather" else 0]
        limits[name] = min(found, limits.get(name, found))
    return limits


def random_feed(session: Any, positive: bool, limits: dict[str, int]) -> dict[str, Array]:
    """Return one input: normal (or uniform positive) numbers, small ones for integers."""
    rng = np.random.default_rng(1)
    types = {"float": "float32", "double": "float64"}
    feed = {}
    for spec in session.get_inputs():
        name = re.sub(r"tensor\((\w+)\)", r"\1", spec.type)
        dtype = np.dtype(types.get(name, name))
        if dtype.kind == "f":
            drawn = rng.random(spec.shape) if positive else rng.standard_normal(spec.shape)
        else:
            drawn = rng.integers(0, limits.get(spec.name, _WHOLE.get(dtype.name, 10)), spec.shape)
        feed[spec.name] = np.asarray(drawn).astype(dtype)
    return feed


class LayoutError(Exception):
    """The file's tensors are not the source's with their axes in another order."""


class Measure:
    """Runs files against ONNX Runtime on one random input.

    ``inputs`` and ``outputs`` map the source's names to those in the file's signature; ``limits``
    are those of integer inputs (`integer_limits`).
    """

    def __init__(
        self,
        source: str,
        inputs: dict[str, str],
        outputs: dict[str, str],
        limits: dict[str, int] | None = None,
    ) -> None:
        self.source, self.inputs, self.outputs = source, inputs, outputs
        self.limits = limits or {}
        self.feed: dict[str, Array] = {}
        self.reference: dict[str, Array] = {}

    def run_reference(self) -> None:
        """Run the source model, once, and only when there is a file to compare."""
        import onnxruntime

        if self.reference:
            return
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self.source, options)
        for positive in (False, True):  # a logarithm or a root wants the latter
            self.feed = random_feed(session, positive, self.limits)
            values = session.run(list(self.outputs), self.feed)
            self.reference = dict(zip(self.outputs, values, strict=True))
            if all(np.isfinite(value).any() for value in values):
                break

    def __call__(self, file: bytes) -> tuple[float, list[Record], list[Record]]:
        """Return the worst output's parity in dB, and the inputs and outputs as records.

        Raises:
            LayoutError: an input's shape is not a permutation of the source's.
        """
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=file, num_threads=2)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner("serving_default")
        self.run_reference()
        best: tuple[float, list[Record], list[Record]] | None = None
        for inputs in self.input_layouts(runner.get_input_details()):
            parity, outputs = self.run(runner, inputs)
            if best is None or parity > best[0] + LIKELIER_DB:
                best = parity, inputs, outputs
            if parity >= GOOD_DB:
                break
        assert best is not None, "there is always one layout"
        return best

    def input_layouts(self, details: dict[str, Any]) -> Iterator[list[Record]]:
        """Yield the input records under each set of layouts that fits, likeliest first."""
        choices = []
        for name, public in self.inputs.items():
            value, detail = self.feed[name], details[public]
            fits = permutations(value.shape, tuple(detail["shape"].tolist()))
            if not fits:
                shapes = f"{list(value.shape)} became {detail['shape'].tolist()}"
                raise LayoutError(f"input {name} of shape {shapes}")
            choices.append([record(name, public, value, detail, fit) for fit in fits[:2]])
        for layouts in itertools.islice(itertools.product(*choices), MAX_LAYOUTS):
            yield list(layouts)

    def run(self, runner: Any, inputs: list[Record]) -> tuple[float, list[Record]]:
        """Run the file; return the worst parity and the output records."""
        feed = {
            item["file_name"]: np.ascontiguousarray(
                np.transpose(self.feed[item["name"]], item["perm"])
            ).astype(item["file_dtype"])
            for item in inputs
        }
        produced, details = runner(**feed), runner.get_output_details()
        worst, records = LIMIT_DB, []
        for name, public in self.outputs.items():
            parity, perm = best_layout(self.reference[name], produced[public])
            worst = min(worst, parity)
            records.append(record(name, public, self.reference[name], details[public], perm))
        return worst, records


def best_layout(reference: Array, made: Array) -> tuple[float, tuple[int, ...] | None]:
    """Return the parity in dB of an output under its best axis order, and that order."""
    best, perm = -LIMIT_DB, None
    for fit in permutations(reference.shape, made.shape):
        score = sqnr_db(reference, np.transpose(made, tuple(int(i) for i in np.argsort(fit))))
        if perm is None or score > best + LIKELIER_DB:
            best, perm = score, fit
    # Labels flip on near ties: hold them to a floor of their own.
    if reference.dtype.kind != "f" and best >= POOR_INTEGER_DB:
        best = LIMIT_DB
    return best, perm


def record(
    name: str, public: str, value: Array, detail: dict[str, Any], perm: tuple[int, ...] | None
) -> Record:
    """Describe one tensor: the source's name, shape and dtype, the file's name, dtype and axes."""
    return {
        "name": name,
        "shape": list(value.shape),
        "dtype": value.dtype.name,
        "file_name": public,
        "file_dtype": np.dtype(detail["dtype"]).name,
        "perm": None if perm is None else list(perm),
    }
