"""Read a .tflite: its operators, its tensors, and the activations' values on given samples."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.errors import LowerError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: ``dtype`` as numpy names it, ``data`` when it is a constant, a read-only view.

    ``scales`` and ``zero_points`` hold one number, or one per index of ``axis``; none in float.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    data: Array | None = None
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0


@dataclass(frozen=True, eq=False)
class Op:
    """One operator: its builtin name, the tensors it is given (None for one left out) and makes."""

    kind: str
    given: tuple[Tensor | None, ...]
    made: tuple[Tensor, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs, "" for one left out."""
        return tuple("" if tensor is None else tensor.name for tensor in self.given)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""
        return tuple(tensor.name for tensor in self.made)


@dataclass(frozen=True)
class TfliteGraph:
    """The main subgraph of a .tflite: operators in order, inputs and outputs.

    ``activations`` holds the float tensors that change with the input, by tensor index;
    ``subgraphs`` counts all of the file's, several where there is control flow.
    """

    ops: tuple[Op, ...]
    activations: Mapping[int, str]
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    subgraphs: int = 1


def read_graph(file: Path) -> TfliteGraph:
    """Read the main subgraph out of the flatbuffer.

    Raises:
        LowerError: not a .tflite.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = file.read_bytes() if file.is_file() else b""
    if content[4:8] != b"TFL3":
        raise LowerError("not a .tflite file", artifact=file)
    try:
        return _unpacked(schema.ModelT.InitFromPackedBuf(content, 0), content)
    except (struct.error, LookupError, TypeError, ValueError) as error:
        raise LowerError("a damaged .tflite file", artifact=file) from error


def _unpacked(model: Any, content: bytes) -> TfliteGraph:
    """Read an unpacked flatbuffer; ``content`` are the file's bytes."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    dtypes = {value: name.lower() for name, value in vars(schema.TensorType).items()}
    buffers = [_bytes(buffer, content) for buffer in model.buffers]
    tensors = [_tensor(tensor, buffers[tensor.buffer], dtypes) for tensor in graph.tensors or ()]
    ops = tuple(
        Op(
            _kind(model.operatorCodes[op.opcodeIndex], kinds),
            tuple(tensors[i] if i >= 0 else None for i in _indices(op.inputs)),
            tuple(tensors[i] for i in _indices(op.outputs)),
        )
        for op in graph.operators or ()
    )
    made = {i for op in graph.operators or () for i in _indices(op.outputs)}
    changing = sorted(made | set(_indices(graph.inputs)))
    return TfliteGraph(
        ops,
        {i: tensors[i].name for i in changing if tensors[i].dtype == "float32"},
        tuple(tensors[i] for i in _indices(graph.inputs)),
        tuple(tensors[i] for i in _indices(graph.outputs)),
        len(model.subgraphs),
    )


def _indices(listed: Any) -> tuple[int, ...]:
    """Return a vector of the flatbuffer as numbers; one that is left out is empty."""
    return () if listed is None else tuple(int(i) for i in listed)


def _bytes(buffer: Any, content: bytes) -> Array:
    """Return a buffer's bytes; ai-edge-quantizer writes large ones behind the flatbuffer."""
    if buffer.offset > 1:  # 0 and 1 mean that there is none
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    return np.asarray([] if buffer.data is None else buffer.data, np.uint8)


def _tensor(tensor: Any, values: Array, dtypes: Mapping[int, str]) -> Tensor:
    shape, dtype = _indices(tensor.shape), dtypes[tensor.type]
    steps = tensor.quantization
    known = steps is not None and steps.scale is not None
    return Tensor(
        tensor.name.decode() if tensor.name else "",
        shape,
        dtype,
        _constant(values, shape, dtype),
        tuple(float(scale) for scale in steps.scale) if known else (),
        _indices(steps.zeroPoint) if known else (),
        int(steps.quantizedDimension) if known else 0,
    )


def _constant(values: Array, shape: tuple[int, ...], dtype: str) -> Array | None:
    """Return the values of a constant, None of one that numpy does not hold (int4, strings)."""
    if values.size == 0:
        return None
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        return None
    if values.size != wanted.itemsize * math.prod(shape):
        return None
    return values.view(wanted).reshape(shape)


def _kind(code: Any, kinds: Mapping[int, str]) -> str:
    """Name an operator; codes over 127 moved from the deprecated byte to a wider field."""
    if code.customCode:
        return str(code.customCode.decode())
    return kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]


def activation_values(
    file: Path, graph: TfliteGraph, inputs: Iterator[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """Yield every activation's value for each prepared sample (the file's names and layout).

    The XNNPACK delegate hides what it computes, so it is off here.

    Raises:
        LowerError: a file with control flow.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if graph.subgraphs != 1:
        raise LowerError(
            "a .tflite with control flow cannot be calibrated",
            artifact=file,
            hint="an LSTM or GRU becomes a loop there: replace it, or take a scheme without "
            "ranges for LiteRT (fp32, int8_weights)",
        )
    interpreter = Interpreter(
        str(file),
        num_threads=os.cpu_count() or 1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    places = input_places(interpreter)
    for sample in inputs:
        for name, array in sample.items():
            interpreter.set_tensor(places[name], array if array.ndim else array.reshape(1))
        interpreter.invoke()
        yield {name: interpreter.get_tensor(i) for i, name in graph.activations.items()}


def input_places(interpreter: Any) -> dict[str, int]:
    """Map input names to tensor indices: the signature's names where there is one."""
    signatures = interpreter.get_signature_list()
    if signatures:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return {name: detail["index"] for name, detail in runner.get_input_details().items()}
    return {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}


def output_places(interpreter: Any) -> dict[str, int]:
    """Map output names to tensor indices: the signature's names where there is one."""
    signatures = interpreter.get_signature_list()
    if signatures:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return {name: detail["index"] for name, detail in runner.get_output_details().items()}
    return {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}


def extremes(
    values: Iterator[dict[str, Array]], wanted: set[str]
) -> dict[str, tuple[float, float]]:
    """Stream the (min, max) of the wanted activations over all samples."""
    bounds = dict.fromkeys(wanted, (math.inf, -math.inf))
    for sample in values:
        for name in wanted:
            low, high = bounds[name]
            array = sample[name]
            bounds[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return bounds
