"""The shapes of a graph's inputs: which dimensions are free, and how they are fixed.

A dimension is free when it has a name, no value, or a literal -1 or 0 (as PaddlePaddle writes).
The first one may stay free: it is the batch. Whatever else is free must be fixed before a file is
made, because a time belongs to a size.

A model has a batch when the first axis of each of its inputs and outputs is free or 1. Otherwise
(a recurrent state [layers, batch, features], logits [time, batch, classes], a scalar, boxes that
were filtered) one sample is the whole tensor, of every input and output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.graph.index import fed_inputs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

Shape = tuple[int, ...]
Shapes = Mapping[str, Sequence[int]]


def normalize_free(graph: GraphProto) -> None:
    """Give every literal -1 or 0 of an input or output the name of a free dimension, in place."""
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.dim_param = f"{value.name}_{axis}" if axis else "batch"


def shape_of(value: ValueInfoProto) -> Shape:
    """Return the shape of an input or output, -1 for each free dimension."""
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in dims
    )


def free_inputs(proto: ModelProto) -> dict[str, Shape]:
    """Return the inputs with a free dimension besides the batch, and their shapes."""
    shapes = {value.name: shape_of(value) for value in fed_inputs(proto.graph)}
    return {name: shape for name, shape in shapes.items() if -1 in shape[1:]}


def has_batch(proto: ModelProto) -> bool:
    """Whether the first axis of every input and output is the batch (see the module's text)."""
    values = (*fed_inputs(proto.graph), *proto.graph.output)
    shapes = [shape_of(value) for value in values if value.type.tensor_type.HasField("shape")]
    firsts = {shape[0] if shape else 0 for shape in shapes}
    inputs = [shape_of(value) for value in fed_inputs(proto.graph)]
    free = any(shape[:1] == (-1,) for shape in inputs)
    return firsts <= ({-1} if free else {1})


def has_free_batch(proto: ModelProto) -> bool:
    """Whether any number of samples runs at once."""
    shapes = [shape_of(value) for value in fed_inputs(proto.graph)]
    return has_batch(proto) and bool(shapes) and all(shape[:1] == (-1,) for shape in shapes)


def pin_batch(proto: ModelProto) -> ModelProto:
    """Return a copy whose batch is 1, on whichever axis a dimension of its name stands."""
    inputs = fed_inputs(proto.graph)
    names = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs if shape_of(value)}
    shapes = {
        value.name: tuple(
            1 if size < 0 and (at == 0 or dim.dim_param in names - {""}) else size
            for at, (size, dim) in enumerate(
                zip(shape_of(value), value.type.tensor_type.shape.dim, strict=True)
            )
        )
        for value in inputs
    }
    return _with_shapes(proto, shapes)


def pin(proto: ModelProto, shapes: Shapes, model: Any) -> ModelProto:
    """Return a copy whose inputs have these shapes; a free batch given as 1 or -1 stays free.

    Args:
        proto: the graph, with free dimensions.
        shapes: by the name of the input; others keep their shapes.
        model: the file that it is from, for error messages.

    Raises:
        ConfigError: there is no such input, or a shape contradicts what the model says.
    """
    known = {value.name: shape_of(value) for value in fed_inputs(proto.graph)}
    for name, given in shapes.items():
        if name not in known:
            raise ConfigError(
                f"shapes= names the input {name!r}, and the model has none of that name",
                artifact=model,
                hint=f"its inputs are {', '.join(map(repr, known))}",
            )
        own = known[name]
        fits = len(own) == len(given) and all(
            have == -1 or want in (-1, have) for have, want in zip(own, given, strict=True)
        )
        if not fits or any(size == 0 or size < -1 for size in given):
            raise ConfigError(
                f"shapes= gives the input {name!r} {list(given)}, the model says {list(own)}",
                artifact=model,
                hint="give a size for each -1, and the others as they are",
            )
    batch = has_batch(proto)
    wanted = {name: _joined(own, shapes.get(name, own), batch) for name, own in known.items()}
    return _with_shapes(proto, wanted) if wanted != known else proto


def _joined(own: Shape, given: Sequence[int], batch: bool) -> Shape:
    first = own[:1] if batch and given[:1] in ((1,), [1]) else tuple(given[:1])
    return (*first, *given[1:])


def only(proto: ModelProto, shape: Sequence[int], model: Any) -> dict[str, Sequence[int]]:
    """Return the shape by the name of the only input; one without the batch gets the model's own.

    Raises:
        ConfigError: there are several inputs.
    """
    known = {value.name: shape_of(value) for value in fed_inputs(proto.graph)}
    names = list(known)
    if len(names) != 1:
        raise ConfigError(
            f"one shape is for one input; this model has {len(names)}: {', '.join(names)}",
            artifact=model,
            hint=f"shapes={{{names[0]}: {list(shape)}, …}}",
        )
    own = known[names[0]]
    return {names[0]: (*own[:1], *shape) if len(shape) == len(own) - 1 else shape}


def still_free(proto: ModelProto) -> str:
    """List in words the inputs whose size nobody gave; "" when there are none."""
    listed = [f"{name} {_shown(shape)}" for name, shape in free_inputs(proto).items()]
    return ", ".join(listed)


def example(proto: ModelProto) -> str:
    """Return what to type to fix the free dimensions."""
    parts = [
        f"{name}: [{', '.join('1' if at == 0 else '…' if d < 0 else str(d) for at, d in pairs)}]"
        for name, shape in free_inputs(proto).items()
        for pairs in [list(enumerate(shape))]
    ]
    return f"shapes={{{', '.join(parts)}}}"


def _shown(shape: Shape) -> str:
    return f"[{', '.join('free' if size < 0 else str(size) for size in shape)}]"


def _with_shapes(proto: ModelProto, shapes: Mapping[str, Shape]) -> ModelProto:
    """Set the shapes of the inputs and infer all others again."""
    import onnx

    copy = type(proto)()
    copy.CopyFrom(proto)
    for value in fed_inputs(copy.graph):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes[value.name], strict=True):
            if size > 0:
                dim.dim_value = size
    del copy.graph.value_info[:]
    free = any(shape[:1] == (-1,) for shape in shapes.values())
    for value in copy.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value > 0 and not (free and axis == 0):
                dim.Clear()
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)
