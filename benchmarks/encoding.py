"""TFLite's sparse encoding: does LiteRT's interpreter run such a file faster than the dense one?

A net that XNNPACK's documentation of sparse inference describes (a 3×3 convolution of stride 2 on
three channels, depthwise and 1×1 convolutions, a global mean) has 80 % of its 1×1 weights zero. Its
file is written a second time with those kernels in compressed rows behind a DENSIFY operator, which
is what the delegate looks for; both are run in turns, on one thread.

    make bench SUITE=encoding
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import frame

if TYPE_CHECKING:
    from torch import nn

SIZE, ZEROS, LEAST = 128, 0.8, 2 / 3
SAME = 1e-4


def net() -> nn.Module:
    """Return the net, its BatchNorm statistics warm, 80 % of its 1×1 weights zero."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    def block(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> Any:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())

    width, layers = 32, [block(3, 32, 3, 2)]
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers += [block(width, width, 3, stride, width), block(width, outputs)]
        width = outputs
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    with torch.no_grad():
        for _ in range(3):
            made.train()(torch.randn(8, 3, SIZE, SIZE))
        for module in made.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                weight = module.weight
                bound = weight.abs().flatten().kthvalue(int(ZEROS * weight.numel())).values
                weight.mul_(weight.abs() > bound)
    return made.eval()


def encoded(dense: bytes) -> tuple[bytes, int]:
    """Return the file with its sparse 1×1 kernels encoded, and how many there were."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(dense), 0)
    (graph,) = model.subgraphs
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DENSIFY
    code.version = 1
    model.operatorCodes.append(code)
    operators, count = [], 0
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind == schema.BuiltinOperator.CONV_2D:
            found = _sparse_kernel(model, graph, operator.inputs[1], schema)
            if found is not None:
                operators.append(_densify(found, operator.inputs[1], model, schema))
                count += 1
        operators.append(operator)
    graph.operators = operators
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), count


def _sparse_kernel(model: Any, graph: Any, index: int, schema: Any) -> int | None:
    """Add a tensor of compressed rows for a 1×1 kernel that is sparse enough; return its index."""
    kernel = graph.tensors[index]
    shape = list(kernel.shape)
    if shape[1:3] != [1, 1]:
        return None
    values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.float32)
    rows = values.reshape(shape[0], shape[3])
    if (rows == 0).mean() < LEAST:
        return None
    tensor = schema.TensorT()
    tensor.shape, tensor.type = np.array(shape, np.int32), schema.TensorType.FLOAT32
    tensor.name = b"sparse_%d" % index
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(rows[rows != 0].tobytes(), np.uint8)
    model.buffers[kernel.buffer].data = None
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    tensor.sparsity = _compressed(rows, shape, schema)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _compressed(rows: Any, shape: list[int], schema: Any) -> Any:
    made = schema.SparsityParametersT()
    made.traversalOrder = np.arange(4, dtype=np.int32)
    made.dimMetadata = []
    for size in shape[:3]:
        dense = schema.DimensionMetadataT()
        dense.format, dense.denseSize = schema.DimensionType.DENSE, size
        made.dimMetadata.append(dense)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    ends = np.concatenate([[0], np.cumsum((rows != 0).sum(1))])
    for name, numbers in (("Segments", ends), ("Indices", np.nonzero(rows)[1])):
        vector = schema.Int32VectorT()
        vector.values = numbers.astype(np.int32)
        setattr(last, f"array{name}", vector)
        setattr(last, f"array{name}Type", schema.SparseIndexVector.Int32Vector)
    made.dimMetadata.append(last)
    return made


def _densify(source: int, target: int, model: Any, schema: Any) -> Any:
    made = schema.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs, made.outputs = np.array([source], np.int32), np.array([target], np.int32)
    made.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    made.builtinOptions = schema.DensifyOptionsT()
    return made


def timed(files: dict[str, Path], turns: int) -> tuple[dict[str, list[float]], float]:
    """Return the milliseconds of each file, in turns, and how far their outputs are apart."""
    from ai_edge_litert.interpreter import Interpreter

    opened = {name: Interpreter(str(file), num_threads=1) for name, file in files.items()}
    image = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    said: list[Any] = []
    for one in opened.values():
        one.allocate_tensors()
        one.set_tensor(one.get_input_details()[0]["index"], image)
        one.invoke()
        said.append(one.get_tensor(one.get_output_details()[0]["index"]).copy())
    spans: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(turns):
        for name, one in opened.items():
            began = time.perf_counter()
            for _ in range(5):
                one.invoke()
            spans[name].append((time.perf_counter() - began) * 200)
    return spans, float(np.abs(said[0] - said[1]).max())


def main() -> int:
    """Run the suite."""
    import torch

    import torchopt2edge as t2e
    from torchopt2edge.stats.rounds import median_interval

    parser = frame.parser(__doc__)
    parser.add_argument("--turns", type=int, default=60)
    options = parser.parse_args()
    run = frame.start("encoding", options)
    with tempfile.TemporaryDirectory() as work:
        row = t2e.quantize(
            net(),
            (torch.randn(4, 3, SIZE, SIZE),),
            schemes=["fp32"],
            backends=["litert"],
            baseline=False,
            out=work,
        ).rows[0]
        files = {"dense": Path(str(row.facts["file"])), "encoded": Path(work) / "encoded.tflite"}
        content, count = encoded(files["dense"].read_bytes())
        files["encoded"].write_bytes(content)
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        spans, apart = timed(files, options.turns)
    ratios = [a / b for a, b in zip(spans["dense"], spans["encoded"], strict=True)]
    middle, low, high = median_interval(ratios)
    line = {
        "encoded kernels": count,
        "dense MB": sizes["dense"],
        "encoded MB": sizes["encoded"],
        "outputs apart": apart,
        "faster": middle,
        "from – to": (low, high),
    }
    goals = [frame.Goal("largest difference of the outputs", SAME, apart)]
    return run.finish([line], goals, {"ms": spans})


if __name__ == "__main__":
    sys.exit(main())
