"""The float ONNX that every backend shares: checked, with its input fixed in type, BN folded.

Calibration, ONNX Runtime and the converter all start from this one graph, so that a tensor's name
means the same tensor to each of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph.canonicalize import canonicalize
from torchopt2edge.quantize.graph.fold_affine import settle_affine
from torchopt2edge.quantize.graph.host_session import host_session, ort_errors
from torchopt2edge.types import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 13, 8
FOLD_LIMIT = 2**28  # elements of one constant
QUANTIZED_OPS = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul "
    "ConvInteger MatMulInteger QGemm QLinearAdd".split()
)
RANDOM_OPS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
)


def prepare(model: Path, out: Path) -> None:
    """Write the shared float graph of the ONNX file ``model`` to the file ``out``.

    Opsets from 13 on stay, older ones become 13. Constants are folded, identities go,
    BatchNormalization and other affine nodes go into the layer before them or become Mul and Add
    (`settle_affine`), the rules of `canonicalize` are applied, and every tensor has an inferred
    shape.

    Raises:
        ExportError: not an ONNX file, not valid, not float, with a batch fixed to several, or
            computing as in training or by chance.
    """
    import onnx

    proto = load(model)
    check_float(proto, model)
    check_batch(proto, model)
    check_inference(proto, model)
    proto = _fold(_modern(proto, model))
    settle_affine(proto)
    canonicalize(proto)
    _check_runs(proto, model)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    onnx.save(proto, out)


def load(model: Path) -> onnx.ModelProto:
    """Read an ONNX file, external data included."""
    import onnx
    from google.protobuf.message import DecodeError

    if not model.is_file():
        raise ExportError("there is no such ONNX file", artifact=model, hint="check model.path")
    try:
        proto = onnx.load(str(model))
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise ExportError(
            f"not a valid ONNX file: {str(error).splitlines()[0]}",
            artifact=model,
            hint="export it again, for instance with torch.onnx.export(..., dynamo=True)",
        ) from error
    return proto


def weights_beside(model: Path) -> list[Path]:
    """Return the files that an ONNX file keeps its weights in; none for a damaged one."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(model), load_external_data=False)
    except DecodeError:  # `load` says so
        return []
    names = {
        entry.value
        for tensor in (*proto.graph.initializer, *_constants(proto.graph))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model.parent / name for name in sorted(names)]


def content_digest(model: Path) -> str:
    """Return the sha256 of an ONNX file and of the files that it keeps its weights in.

    A net that was trained on has the same file beside other weights.
    """
    total = hashlib.sha256()
    for file in (model, *weights_beside(model)):
        if file.is_file():  # `load` says so, too
            with file.open("rb") as held:
                total.update(hashlib.file_digest(held, "sha256").digest())
    return total.hexdigest()


def _constants(graph: Any) -> Iterator[Any]:
    return (a.t for node in nodes(graph) for a in node.attribute if a.HasField("t"))


def check_float(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a graph that is already quantized, or whose weights are not float32.

    A quantized graph cannot be lowered twice, and the converter would drop its Q/DQ nodes
    without a word (onnx2tf#582).
    """
    import onnx

    found = sorted({node.op_type for node in nodes(proto.graph)} & QUANTIZED_OPS)
    if found:
        raise ExportError(
            f"this ONNX is already quantized ({', '.join(found)})",
            artifact=model,
            hint="give the float model; quantizing is done here, once for every runtime",
        )
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    held = [(weight.name, weight.data_type) for weight in proto.graph.initializer]
    held += [(value.name, value.type.tensor_type.elem_type) for value in proto.graph.input]
    odd = [name for name, dtype in held if dtype in half]
    if odd:
        raise ExportError(
            f"this ONNX is not float32: {len(odd)} weights or inputs are not, {odd[0]!r} for one",
            artifact=model,
            hint="export the model in float32 (model.float()) and let schemes= choose precision",
        )


def check_batch(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a first dimension fixed to several samples: checks and probes run one by one.

    Nor may an output keep its rows when the batch is free: they belong to no sample.
    """
    signature = signature_of(proto, model)
    free = any(spec.shape[:1] == (-1,) for spec in signature.inputs)
    for spec in signature.outputs:
        if free and spec.shape and spec.shape[0] >= 0:
            raise ExportError(
                f"the batch is free, and the output {spec.name!r} is {list(spec.shape)} of any",
                artifact=model,
                hint="export it with a batch of 1, or leave that output out",
            )
    for spec in signature.inputs:
        if spec.shape and spec.shape[0] > 1:
            raise ExportError(
                f"the batch of input {spec.name!r} is fixed to {spec.shape[0]}",
                artifact=model,
                hint="export it with a free batch (dynamic_shapes), or with a batch of 1",
            )


def check_inference(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a graph that was exported in train mode, or that draws numbers of its own.

    Its outputs change from run to run, or hang on what else is in the batch.
    """
    off = {name for name, value in _flags(proto.graph) if not value}
    found = [
        node
        for node in nodes(proto.graph)
        if node.op_type in RANDOM_OPS
        or (node.op_type == "Dropout" and any(name not in off for name in node.input[2:] if name))
        or any(a.name == "training_mode" and a.i for a in node.attribute)
    ]
    if found:
        kinds = ", ".join(sorted({node.op_type for node in found}))
        raise ExportError(
            f"this ONNX computes as in training or by chance ({kinds}; "
            f"node {found[0].name or found[0].output[0]!r} for one)",
            artifact=model,
            hint="call net.eval() before the export, and leave out what draws random numbers",
        )


def _flags(graph: Any) -> Iterator[tuple[str, bool]]:
    """Walk the constants that are single booleans."""
    from onnx import TensorProto, numpy_helper

    held = [(tensor.name, tensor) for tensor in graph.initializer]
    held += [
        (node.output[0], a.t)
        for node in nodes(graph)
        if node.op_type == "Constant"
        for a in node.attribute
        if a.HasField("t")
    ]
    for name, tensor in held:
        if tensor.data_type == TensorProto.BOOL and not any(size != 1 for size in tensor.dims):
            yield name, bool(numpy_helper.to_array(tensor).reshape(-1)[0])


def nodes(graph: Any) -> Iterator[Any]:
    """Walk the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def _modern(proto: onnx.ModelProto, model: Path) -> onnx.ModelProto:
    """Bring an older file to opset 13, with weights that are not inputs as well.

    Opset 13 is the first whose DequantizeLinear takes a scale per channel. Until IR version 4
    every weight had to be listed as an input, and nothing listed there may be folded.
    """
    import onnx

    weights = {weight.name for weight in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(given)
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), OPSET)
    if opset >= OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0].rpartition("failed: ")[2]
        raise ExportError(
            f"opset {opset} cannot be brought to {OPSET}: {said}",
            artifact=model,
            hint="export it again in opset 18",
        ) from error


def _fold(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants of any size and simplify with onnxscript's standard rules.

    Not with ONNX Runtime's own: they would break HardSwish into HardSigmoid and Mul, which
    TFLite has no integer kernel for. The limits of size would leave standardised weights to be
    computed at run time, where no quantizer sees them as weights.
    """
    from onnxscript import optimizer

    told = logging.getLogger("onnx_ir")  # warns of what it leaves alone, such as a constant output
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        folded: onnx.ModelProto = optimizer.optimize(
            proto, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT
        )
    finally:
        told.setLevel(level)
    return folded


def _check_runs(proto: onnx.ModelProto, model: Path) -> None:
    try:
        host_session(proto, optimize=False)
    except ort_errors() as error:
        raise ExportError(
            f"ONNX Runtime cannot load this graph: {str(error).splitlines()[0]}",
            artifact=model,
            hint="replace the operator that it names, or export the model again; "
            "onnx.checker.check_model(path, full_check=True) may say more",
        ) from error


def signature_of(proto: onnx.ModelProto, model: Path) -> Signature:
    """Read the names, shapes and dtypes of an ONNX graph's inputs and outputs.

    Raises:
        ExportError: an input has a rank that is not known.
    """
    weights = {weight.name for weight in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    return Signature(
        tuple(_spec(value, model) for value in inputs),
        tuple(_spec(value, model) for value in proto.graph.output),
    )


def _spec(value: Any, model: Path) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ExportError(
            f"the tensor {value.name!r} has no shape",
            artifact=model,
            hint="export it with fixed ranks, or run onnx.shape_inference.infer_shapes on it",
        )
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorSpec(value.name, shape, dtype, value.name, dtype)
