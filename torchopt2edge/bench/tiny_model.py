"""One tiny model as the two runtimes' files, built from code: what a device is tried with.

A convolution with a ReLU, with the same weights in both; a few kilobytes each.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.types import Candidate, Signature, TensorSpec

Array = np.ndarray[Any, Any]

SIZE, WIDTH = 16, 8


def sample() -> dict[str, Array]:
    """Return the input of the tiny model: one image of noise in NCHW, float32."""
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)}


def _weights() -> tuple[Array, Array]:
    """Return the kernels (OIHW) and the biases."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((WIDTH, 3, 3, 3)).astype(np.float32) / 5
    return weight, rng.standard_normal(WIDTH).astype(np.float32)


def _candidate(backend: str, file: Path, perm: tuple[int, ...] | None) -> Candidate:
    specs = [
        TensorSpec(name, (1, depth, SIZE, SIZE), "float32", inner, "float32", perm)
        for name, inner, depth in (("image", "x", 3), ("features", "y", WIDTH))
    ]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    signature = Signature((specs[0],), (specs[1],))
    return Candidate(f"doctor-{backend}", backend, "fp32", file, signature, digest)


def onnx_model(folder: Path) -> Candidate:
    """Write the tiny model as .onnx, in NCHW."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = [numpy_helper.from_array(*pair) for pair in zip(_weights(), ("w", "b"), strict=True)]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, depth, SIZE, SIZE])
        for name, depth in (("x", 3), ("y", WIDTH))
    ]
    graph = helper.make_graph(nodes, "doctor", ends[:1], ends[1:], values)
    opset = [helper.make_opsetid("", 17)]
    file = folder / "doctor.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), file)
    return _candidate("ort", file, None)


def tflite_model(folder: Path) -> Candidate:
    """Write the tiny model as .tflite, in NHWC."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder  # type: ignore[import-untyped]

    weight, bias = _weights()
    held: list[tuple[bytes, list[int], Array | None]] = [
        (b"x", [1, SIZE, SIZE, 3], None),
        (b"y", [1, SIZE, SIZE, WIDTH], None),
    ]
    held += [(b"w", [WIDTH, 3, 3, 3], weight.transpose(0, 2, 3, 1)), (b"b", [WIDTH], bias)]
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors = []
    for at, (name, shape, value) in enumerate(held, 1):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape, tensor.buffer = name, shape, at
        tensor.type = schema.TensorType.FLOAT32
        if value is not None:
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        graph.tensors.append(tensor)
        model.buffers.append(buffer)
    code, conv, how = schema.OperatorCodeT(), schema.OperatorT(), schema.Conv2DOptionsT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    how.padding, how.strideW, how.strideH = schema.Padding.SAME, 1, 1
    how.dilationWFactor = how.dilationHFactor = 1
    how.fusedActivationFunction = schema.ActivationFunctionType.RELU
    conv.builtinOptionsType, conv.builtinOptions = schema.BuiltinOptions.Conv2DOptions, how
    conv.inputs, conv.outputs = [0, 2, 3], [1]
    model.operatorCodes, graph.operators = [code], [conv]
    graph.inputs, graph.outputs = [0], [1]
    builder = Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    file = folder / "doctor.tflite"
    file.write_bytes(bytes(builder.Output()))
    return _candidate("litert", file, (0, 2, 3, 1))
