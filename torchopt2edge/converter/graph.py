"""What is checked and fixed in an ONNX graph before the converter sees it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.converter.names import make_safe
from torchopt2edge.converter.unfold import unfold_in_place
from torchopt2edge.errors import ConverterError, StoreError

if TYPE_CHECKING:
    import onnx

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a model with its external weights.

    Raises:
        ConverterError: it is missing or not an ONNX model.
    """
    import onnx

    protobuf = importlib.import_module("google.protobuf.message")
    try:
        return onnx.load(path)
    except (OSError, protobuf.DecodeError, onnx.checker.ValidationError) as error:
        raise ConverterError(
            f"The ONNX model cannot be read: {error}", artifact=path, hint="export it again"
        ) from error


def reject_quantized(path: Path) -> None:
    """Refuse a graph that holds quantization: onnx2tf drops it silently.

    Raises:
        ConverterError: it holds QuantizeLinear or the like.
    """
    import onnx

    _reject_quantized(onnx.load(path, load_external_data=False), path)


def _reject_quantized(model: onnx.ModelProto, path: Path) -> None:
    found = sum(node.op_type in _QUANTIZED for node in model.graph.node)
    if found:
        raise ConverterError(
            f"The graph is already quantized ({found} quantization nodes)",
            artifact=path,
            hint="feed the float ONNX to the converter and quantize the .tflite after it",
        )


def with_static_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose free batch, the first dimension of the inputs, is 1.

    Raises:
        ConverterError: another dimension is free.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in weights]
    batch_names = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in inputs
        if value.type.tensor_type.shape.dim
    } - {""}
    free = False
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0:
                continue
            if axis > 0 and dim.dim_param not in batch_names:
                raise ConverterError(
                    f"Dimension {axis} of input {value.name} is free",
                    hint="export with a fixed input size; only the batch may be free",
                )
            dim.dim_value, free = 1, True
    return _inferred(copy) if free else copy


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Forget the shapes that depended on the batch and infer them again."""
    import onnx

    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value <= 0:
                dim.Clear()
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _widen_scalars(model: onnx.ModelProto) -> None:
    """Give every input without axes one of length 1, which TensorFlow Lite wants, in place."""
    from onnx import TensorProto, helper

    for value in model.graph.input:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or len(tensor.shape.dim):
            continue
        inner, shape = f"{value.name}_scalar", f"{value.name}_no_axes"
        for node in model.graph.node:
            node.input[:] = [inner if name == value.name else name for name in node.input]
        model.graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [0], []))
        node = helper.make_node("Reshape", [value.name, shape], [inner], name=inner)
        model.graph.node.insert(0, node)
        tensor.shape.dim.add().dim_value = 1


def write_private_copy(source: Path, target: Path) -> dict[str, str]:
    """Write the float, static, self-contained copy of ``source`` that the converter may rewrite.

    Returns:
        The names that differ there: new → old.

    Raises:
        ConverterError: it is quantized, has a free size, or is larger than one file can hold.
        StoreError: the copy cannot be written.
    """
    import onnx

    protobuf = importlib.import_module("google.protobuf.message")
    model = read_graph(source)
    _reject_quantized(model, source)
    try:
        static = with_static_batch(model)
        unfold_in_place(static)
        _widen_scalars(static)
        renamed = make_safe(static.graph)
        onnx.save(static, target)
    except ConverterError as error:
        raise ConverterError(error.what, artifact=source, hint=error.hint) from None
    except (protobuf.EncodeError, ValueError) as error:
        raise ConverterError(
            f"The model does not fit into one ONNX file: {error}",
            artifact=source,
            hint="the converter takes models of up to 2 GB",
        ) from error
    except OSError as error:
        raise StoreError(
            f"The converter's copy cannot be written: {error}",
            artifact=target,
            hint="make room there, or set TMPDIR to a folder on a larger disk",
        ) from error
    return renamed
