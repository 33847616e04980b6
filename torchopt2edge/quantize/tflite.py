"""Read a float .tflite: its operators, its activations, and their values on given samples."""

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


@dataclass(frozen=True)
class Op:
    """One operator: its builtin name and the names of its inputs and outputs ("" for none)."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class TfliteGraph:
    """The main subgraph of a .tflite: operators in order, activations by tensor index.

    ``constants`` holds the float tensors of one element, such as the value of a PADV2.
    """

    ops: tuple[Op, ...]
    activations: Mapping[int, str]
    constants: Mapping[str, float]


def read_graph(file: Path) -> TfliteGraph:
    """Read operators and float activations out of the flatbuffer.

    Raises:
        LowerError: not a .tflite, or one with control flow (several subgraphs).
    """
    from ai_edge_litert import schema_py_generated as schema

    model = _model(file)
    if len(model.subgraphs) != 1:
        raise LowerError("a .tflite with control flow cannot be calibrated", artifact=file)
    graph = model.subgraphs[0]
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    names = [tensor.name.decode() for tensor in graph.tensors]

    def named(indices: Any) -> tuple[str, ...]:
        return tuple(names[i] if i >= 0 else "" for i in indices)

    ops = tuple(
        Op(_kind(model.operatorCodes[op.opcodeIndex], kinds), named(op.inputs), named(op.outputs))
        for op in graph.operators
    )
    made = {int(i) for op in graph.operators for i in op.outputs} | {int(i) for i in graph.inputs}
    floats = {
        i: names[i] for i in sorted(made) if graph.tensors[i].type == schema.TensorType.FLOAT32
    }
    constants = {
        tensor.name.decode(): float(np.frombuffer(bytes(data), np.float32)[0])
        for tensor in graph.tensors
        if tensor.type == schema.TensorType.FLOAT32
        and (data := model.buffers[tensor.buffer].data) is not None
        and len(data) == 4
    }
    return TfliteGraph(ops, floats, constants)


def _model(file: Path) -> Any:
    """Unpack the flatbuffer."""
    from ai_edge_litert import schema_py_generated as schema

    content = file.read_bytes() if file.is_file() else b""
    if content[4:8] != b"TFL3":
        raise LowerError("not a .tflite file", artifact=file)
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
    except (struct.error, LookupError, TypeError, ValueError) as error:
        raise LowerError("a damaged .tflite file", artifact=file) from error
    if not model.subgraphs or model.operatorCodes is None or model.buffers is None:
        raise LowerError("a damaged .tflite file", artifact=file)
    return model


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
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

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
            interpreter.set_tensor(places[name], array)
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


def integer_ops(file: Path) -> list[str]:
    """Name the operators that compute on integer tensors, QUANTIZE and DEQUANTIZE left out.

    Raises:
        LowerError: not a .tflite.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = _model(file)
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    whole = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
    graph = model.subgraphs[0]
    found = []
    for op in graph.operators:
        kind = _kind(model.operatorCodes[op.opcodeIndex], kinds)
        types = {graph.tensors[i].type for i in op.outputs}
        if types & whole and kind not in ("QUANTIZE", "DEQUANTIZE"):
            found.append(kind)
    return found
