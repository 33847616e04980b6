"""Networks and images to measure with: nothing is downloaded, and no output is a false pass.

A freshly initialised network with untouched BatchNorm statistics outputs about 1e-15, and every
file agrees with that: the statistics, and a head that tells images apart, are found here, on
other images than those that calibrate.

For the suites that hold the harness itself to its promises there are towers: plain convolutions
of a wanted latency, built node by node, the same weights in an .onnx and in a .tflite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.types import Candidate, Signature, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

ZOO = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "resnet18",
    "efficientnet_b0",
    "squeezenet1_1",
    "tf_efficientnet_lite0",
)
SIZE = 224
WARMING = 64
_BATCH = 8
_OPERATORS = {"CONV_2D": "Conv2DOptions", "MEAN": "ReducerOptions"}
DIRECTIONS = 8
INPUT = (1, 3, 16, 16)
"""What a tower takes; ``bare.c`` knows it too."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(count: int, data: Path | None = None, skip: int = 0) -> Tensor:
    """Return float32 [count, 3, 224, 224], normalised as for ImageNet, the first ``skip`` left out.

    Photographs of ``data/photos``, centre-cropped, or without ``data`` structured noise: smooth
    colour fields at several scales with hard-edged rectangles.
    """
    import torch

    raw = _synthetic(count, skip) if data is None else _photos(count, data, skip)
    mean, std = (torch.tensor(each)[:, None, None] for each in (_MEAN, _STD))
    return (raw - mean) / std


def _photos(count: int, data: Path, skip: int) -> Tensor:
    import torch
    from torchvision.io import ImageReadMode, read_image
    from torchvision.transforms.functional import center_crop

    files = sorted((data / "photos").glob("*.jpg"))[skip : skip + count]
    if len(files) < count:
        raise SystemExit(f"there are no {skip + count} photographs in {data / 'photos'}")
    return torch.stack(
        [center_crop(read_image(str(file), ImageReadMode.RGB), [SIZE]) / 255 for file in files]
    )


def _synthetic(count: int, skip: int) -> Tensor:
    import torch
    from torch.nn.functional import interpolate

    chance = torch.Generator().manual_seed(skip)
    made = torch.full((count, 3, SIZE, SIZE), 0.5)
    for cells in (2, 4, 8, 16, 56, SIZE):
        field = torch.randn(count, 3, cells, cells, generator=chance)
        smooth = interpolate(field, (SIZE, SIZE), mode="bilinear", align_corners=False)
        made += smooth * 0.25 * (2 / cells) ** 0.5
    for image in made:
        for _ in range(6):
            top, left, high, wide = torch.randint(8, SIZE // 2, (4,), generator=chance).tolist()
            colour = torch.rand(3, 1, 1, generator=chance)
            image[:, top : top + high, left : left + wide] = colour
    return made.clamp_(0, 1)


def warmed(name: str, data: Path | None = None, count: int = WARMING) -> nn.Module:
    """Return a network of the zoo in eval mode: random weights, fitted to ``count`` images.

    ``squeezenet1_1``, which has neither a BatchNorm nor a linear head, takes its real weights
    from ``data`` where they are there.
    """
    import torch

    torch.manual_seed(0)
    trained = data / "squeezenet1_1_imagenet.pth" if data and name == "squeezenet1_1" else None
    net = build(name, trained if trained and trained.is_file() else None).eval()
    batches = torch.split(images(count, data, skip=1000 if data is None else 400), _BATCH)
    with torch.no_grad():
        _measure_norms(net, batches)
        _read_out(net, batches)
    return net


def build(name: str, weights: Path | None = None) -> nn.Module:
    """Return a network of the zoo, from timm where torchvision does not have it."""
    from torchopt2edge.models.timm_net import timm_net
    from torchopt2edge.models.torchvision_net import torchvision_net

    make = timm_net if name.startswith("tf_") else torchvision_net
    return make(name, weights=str(weights) if weights else None)


def _measure_norms(net: nn.Module, batches: Sequence[Tensor]) -> None:
    """Set every BatchNorm's statistics to the plain mean over the batches, not a moving one."""
    from torch import nn

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    for batch in batches if norms else ():
        net(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.eval()
        norm.momentum = momentum


def _read_out(net: nn.Module, batches: Sequence[Tensor]) -> None:
    """Let the last linear layer read the directions in which the features really differ.

    A random network maps all images to nearly the same features; the maximum of a random head on
    them lies almost anywhere, and int8 noise decides it, which no trained network shows
    (MobileNetV2: 44 % of the images keep their class). Here the first classes are the two ends of
    the features' principal directions (91 %) and the others faint.
    """
    import torch
    from torch import nn

    heads = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not heads:
        return
    seen: list[Tensor] = []
    hook = heads[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for batch in batches:
        net(batch)
    hook.remove()
    features = torch.cat(seen)
    middle = features.mean(0)
    ends = torch.linalg.svd(features - middle, full_matrices=False)[2][:DIRECTIONS]
    heads[-1].weight.mul_(0.01)
    heads[-1].weight[: 2 * DIRECTIONS] = torch.cat([ends, -ends])
    heads[-1].bias.copy_(-heads[-1].weight @ middle)


@dataclass(frozen=True)
class Tower:
    """``depth`` convolutions 3 × 3 of ``width`` channels, the mean of each, and nothing else.

    ``extra`` values go through a function whose result is multiplied by nothing, behind the mean:
    the same answer, later (an .onnx alone).
    """

    width: int
    depth: int
    extra: int = 0

    def save(self, name: str, backend: str, folder: Path) -> Candidate:
        """Write it as ``name`` for a backend (``ort`` or ``litert``)."""
        file = folder / f"{name}.{'onnx' if backend == 'ort' else 'tflite'}"
        content = _onnx(self) if backend == "ort" else _tflite(self)
        file.write_bytes(content)
        perm = None if backend == "ort" else (0, 2, 3, 1)
        taken = TensorSpec("image", INPUT, "float32", "x", "float32", perm)
        given = TensorSpec("mean", (1, self.width), "float32", "y", "float32")
        digest = hashlib.sha256(content).hexdigest()
        return Candidate(name, backend, "fp32", file, Signature((taken,), (given,)), digest)

    def weights(self) -> list[np.ndarray[Any, Any]]:
        """Return the kernels, [out, in, 3, 3], under which values neither grow nor vanish."""
        import numpy as np

        rng = np.random.default_rng(1)
        shapes = [(self.width, width, 3, 3) for width in [INPUT[1], *[self.width] * self.depth]]
        return [
            (rng.normal(size=shape) * (2 / (9 * shape[1])) ** 0.5).astype(np.float32)
            for shape in shapes[: self.depth]
        ]


def sample() -> dict[str, np.ndarray[Any, Any]]:
    """Return one input of a tower, in its source model's name."""
    import numpy as np

    return {"image": np.random.default_rng(0).normal(size=INPUT).astype(np.float32)}


def fitted(wanted_ms: float, backend: str, folder: Path) -> Tower:
    """Return the tower that takes about so many milliseconds here, on one thread."""
    width = 16 if wanted_ms < 0.5 else 32 if wanted_ms < 3.0 else 64
    few, many = 3, 9
    times = [
        typical_ms(Tower(width, depth).save("probe", backend, folder), folder)
        for depth in (few, many)
    ]
    each = max((times[1] - times[0]) / (many - few), 1e-3)
    return Tower(width, max(1, round(few + (wanted_ms - times[0]) / each)))


def typical_ms(candidate: Candidate, folder: Path, seconds: float = 0.3) -> float:
    """Return the median milliseconds of an inference in a fresh process."""
    import numpy as np

    from torchopt2edge.bench.child_session import open_child
    from torchopt2edge.devices.local import Local

    with open_child(candidate, Local(), folder / "probe.log") as session:
        session.load_timed(sample())
        session.round(5, seconds / 3, 100_000)
        return float(np.median(session.round(5, seconds, 100_000).latency_ns)) / 1e6


def _onnx(tower: Tower) -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes, stored, last = [], [], "x"
    for at, kernel in enumerate(tower.weights()):
        stored.append(numpy_helper.from_array(kernel, f"w{at}"))
        nodes.append(helper.make_node("Conv", [last, f"w{at}"], [f"c{at}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"]))
        last = f"r{at}"
    nodes.append(helper.make_node("ReduceMean", [last, "axes"], ["mean"], keepdims=0))
    stored.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    if tower.extra:
        tall = numpy_helper.from_array(np.array([tower.extra // tower.width, 1]), "tall")
        across = numpy_helper.from_array(np.array([0]), "across")
        stored += [tall, across, numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
        nodes += [
            helper.make_node("Expand", ["mean", "tall"], ["wide"]),
            helper.make_node("Tanh", ["wide"], ["bent"]),
            helper.make_node("ReduceMean", ["bent", "across"], ["late"], keepdims=1),
            helper.make_node("Mul", ["late", "nothing"], ["naught"]),
        ]
    end = ["mean", "naught"] if tower.extra else ["mean"]
    nodes.append(helper.make_node("Add" if tower.extra else "Identity", end, ["y"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", INPUT), ("y", (1, tower.width)))
    ]
    graph = helper.make_graph(nodes, "tower", ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", 18)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return model


def _tflite(tower: Tower) -> bytes:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder  # type: ignore[import-untyped]

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, side = [], [], INPUT[2:]
    last = _tensor(model, "x", (1, *side, INPUT[1]))
    graph.inputs = [last]
    for at, kernel in enumerate(tower.weights()):
        filters = _tensor(model, f"w{at}", values=kernel.transpose(0, 2, 3, 1))
        bias = _tensor(model, f"b{at}", values=np.zeros(tower.width, np.float32))
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        made = _tensor(model, f"c{at}", (1, *side, tower.width))
        last = _operator(graph, "CONV_2D", options, [last, filters, bias], made)
    axes = _tensor(model, "axes", values=np.array([1, 2], np.int32))
    end = _tensor(model, "y", (1, tower.width))
    graph.outputs = [_operator(graph, "MEAN", schema.ReducerOptionsT(), [last, axes], end)]
    for name in _OPERATORS:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        model.operatorCodes = [*(model.operatorCodes or []), code]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(model: Any, name: str, shape: Sequence[int] = (), values: Any = None) -> int:
    """Add a tensor, a constant where there are values; return its place."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    made, buffer = schema.TensorT(), schema.BufferT()
    made.name, made.buffer = name.encode(), len(model.buffers)
    made.shape = list(shape) if values is None else list(values.shape)
    whole = values is not None and values.dtype == np.int32
    made.type = schema.TensorType.INT32 if whole else schema.TensorType.FLOAT32
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def _operator(graph: Any, code: str, options: Any, taken: list[int], given: int) -> int:
    """Add an operator; return the place of its output."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = list(_OPERATORS).index(code), taken, [given]
    made.builtinOptionsType = getattr(schema.BuiltinOptions, _OPERATORS[code])
    made.builtinOptions = options
    graph.operators.append(made)
    return given
