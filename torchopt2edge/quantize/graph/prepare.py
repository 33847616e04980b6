"""Make the float ONNX that every backend shares: checked, in one opset, with constants folded.

Calibration, ONNX Runtime and the converter all start from this graph, so that a tensor's name means
the same tensor to each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ExportError
from torchopt2edge.quantize.graph import shapes
from torchopt2edge.quantize.graph.canonicalize import canonicalize
from torchopt2edge.quantize.graph.fold_affine import settle_affine
from torchopt2edge.quantize.graph.host_session import host_session, ort_errors
from torchopt2edge.quantize.graph.index import fed_inputs, values_of, walk_nodes
from torchopt2edge.quantize.graph.op_types import is_quantized, name_of
from torchopt2edge.quantize.graph.simplify import RULES, simplify
from torchopt2edge.types import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 13, 8
RANDOM_OPS = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
)


def prepare(model: Path, out: Path) -> onnx.ModelProto:
    """Make the shared float graph of an ONNX file.

    Opsets from 13 on stay, older ones become 13. Constants are folded, identities removed,
    BatchNormalization and other affine nodes go into the layer before them or become Mul and Add
    (`settle_affine`), the rules of `canonicalize` are applied, and every tensor gets an inferred
    shape.

    Args:
        model: the ONNX file.
        out: the file to write.

    Returns:
        What was written.

    Raises:
        ExportError: not an ONNX file, not valid, not float, with a batch fixed to several samples,
            or a graph that computes as in training or at random.
    """
    import onnx

    proto = prepared(load(model), model)
    onnx.save(proto, out)
    return proto


AFFINE, POOLING = "affine folding", "mean to global pooling"
REWRITES = (*RULES, AFFINE, POOLING)
"""Every rewrite of `prepared` that may be left out, by name."""


def prepared(
    proto: onnx.ModelProto, model: Path, left_out: Collection[str] = ()
) -> onnx.ModelProto:
    """Return the shared float graph of a loaded ONNX file, as `prepare` does.

    Args:
        proto: the loaded graph, which may be changed.
        model: the file that it is from, for error messages.
        left_out: those of `REWRITES` that are not applied.
    """
    import onnx

    check_float(proto, model)
    proto = settled(proto, model)
    check_inference(proto, model)
    proto = simplify(_modern(proto, model), left_out)
    if AFFINE not in left_out:
        settle_affine(proto)
    canonicalize(proto, pooling=POOLING not in left_out)
    _check_runs(proto, model)
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def load(model: Path) -> onnx.ModelProto:
    """Load and check an ONNX file, external data included.

    Raises:
        ExportError: there is no such file, or it is not a valid ONNX file.
    """
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
    """Return the files that an ONNX file keeps its weights in; none for a damaged file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(model), load_external_data=False)
    except DecodeError:  # `load` reports it
        return []
    names = {
        entry.value
        for tensor in (*proto.graph.initializer, *_tensor_attributes(proto.graph))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model.parent / name for name in sorted(names)]


def content_digest(model: Path) -> str:
    """Return the sha256 of an ONNX file and of the files that it keeps its weights in.

    A net that was trained further has the same graph file with other weights beside it.
    """
    total = hashlib.sha256()
    for file in (model, *weights_beside(model)):
        if file.is_file():  # `load` reports a missing one
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _tensor_attributes(graph: Any) -> Iterator[Any]:
    return (a.t for node in walk_nodes(graph) for a in node.attribute if a.HasField("t"))


def check_float(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a graph that is already quantized, or whose weights are not float32.

    A quantized graph cannot be lowered twice, and the converter would drop its Q/DQ nodes
    silently (onnx2tf#582).
    """
    import onnx

    quantized = {node.op_type for node in walk_nodes(proto.graph) if is_quantized(node.op_type)}
    if quantized:
        raise ExportError(
            f"this ONNX is already quantized ({', '.join(sorted(quantized))})",
            artifact=model,
            hint="give the float model; quantizing is done here, once for every runtime",
        )
    other = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    dtypes = [(weight.name, weight.data_type) for weight in proto.graph.initializer]
    dtypes += [(value.name, value.type.tensor_type.elem_type) for value in proto.graph.input]
    names = [name for name, dtype in dtypes if dtype in other]
    if names:
        raise ExportError(
            f"this ONNX is not float32: {len(names)} weights or inputs are not, such as "
            f"{names[0]!r}",
            artifact=model,
            hint="export the model in float32 (model.float()) and let schemes= choose precision",
        )


def settled(proto: onnx.ModelProto, model: Path) -> onnx.ModelProto:
    """Return the graph with every size known but that of the batch; without a batch, all of them.

    Raises:
        ExportError: a size is free, or the batch is fixed to several samples.
    """
    shapes.normalize_free(proto.graph)
    sizes = {spec[:1] for spec in map(shapes.shape_of, fed_inputs(proto.graph))}
    fixed = next(iter(sizes))[0] if len(sizes) == 1 and next(iter(sizes)) else 1
    if fixed > 1:
        raise ExportError(
            f"the batch of every input is fixed to {fixed}",
            artifact=model,
            hint="export it with a free batch (dynamic_shapes), or with a batch of 1",
        )
    if not shapes.has_batch(proto):
        proto = shapes.pin_batch(proto)
    free = shapes.still_free(proto)
    if free:
        raise ExportError(
            f"the size of an input is free: {free}",
            artifact=model,
            hint=f"say what it is measured at: {shapes.example(proto)}",
        )
    return proto


def check_inference(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a graph that was exported in train mode, or that draws random numbers.

    Its outputs change from run to run, or depend on the other samples of the batch.
    """
    off = {name for name, value in _flags(proto.graph) if not value}
    nodes = [
        node
        for node in walk_nodes(proto.graph)
        if node.op_type in RANDOM_OPS
        or (node.op_type == "Dropout" and any(name not in off for name in node.input[2:] if name))
        or any(a.name == "training_mode" and a.i for a in node.attribute)
    ]
    if nodes:
        op_types = ", ".join(sorted({node.op_type for node in nodes}))
        raise ExportError(
            f"this ONNX computes as in training, or at random ({op_types}, such as the node "
            f"{name_of(nodes[0])!r})",
            artifact=model,
            hint="call net.eval() before the export, and leave out what draws random numbers",
        )


def _flags(graph: Any) -> Iterator[tuple[str, bool]]:
    """Yield the constants that are single booleans."""
    from onnx import TensorProto

    tensors = [(tensor.name, tensor) for tensor in graph.initializer]
    tensors += [
        (node.output[0], a.t)
        for node in walk_nodes(graph)
        if node.op_type == "Constant"
        for a in node.attribute
        if a.HasField("t")
    ]
    for name, tensor in tensors:
        if tensor.data_type == TensorProto.BOOL and not any(size != 1 for size in tensor.dims):
            yield name, bool(values_of(tensor).reshape(-1)[0])


def _modern(proto: onnx.ModelProto, model: Path) -> onnx.ModelProto:
    """Bring an older graph to opset 13, and take its weights off the list of inputs.

    Opset 13 is the first whose DequantizeLinear takes a scale per channel. Until IR version 4
    every weight had to be listed as an input, and what is listed there must not be folded.
    """
    import onnx

    remove_listed_weights(proto.graph)
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), OPSET)
    if opset >= OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rpartition("failed: ")[2]
        raise ExportError(
            f"opset {opset} cannot be brought to {OPSET}: {reason}",
            artifact=model,
            hint="export it again in opset 18",
        ) from error


def remove_listed_weights(graph: onnx.GraphProto) -> None:
    """Take the initializers off the list of inputs, where old files have them, in place."""
    inputs = fed_inputs(graph)
    del graph.input[:]
    graph.input.extend(inputs)


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

    Args:
        proto: the graph.
        model: the file that it is from, for error messages.

    Returns:
        The signature, with -1 for each free dimension. Of a model without a batch (`shapes`) every
        tensor is ``whole``: its shape has a leading 1 that the file's tensor has not.

    Raises:
        ExportError: a tensor has an unknown rank.
    """
    whole = not shapes.has_batch(proto)
    return Signature(
        tuple(_spec(value, model, whole) for value in fed_inputs(proto.graph)),
        tuple(_spec(value, model, whole) for value in proto.graph.output),
    )


def _spec(value: Any, model: Path, whole: bool) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ExportError(
            f"the tensor {value.name!r} has no shape",
            artifact=model,
            hint="export it with fixed ranks, or run onnx.shape_inference.infer_shapes on it",
        )
    shape = shapes.shape_of(value)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    given = (1, *shape) if whole else shape
    return TensorSpec(value.name, given, dtype, value.name, dtype, whole=whole)
