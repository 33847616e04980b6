"""PyTorch → one float ONNX file: the hub that every backend lowers."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchopt2edge.data.dataset import DataSet
from torchopt2edge.errors import ConfigError, ExportError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_model
from torchopt2edge.quantize.graph.canonicalize import canonicalize
from torchopt2edge.quantize.graph.simplify import simplify
from torchopt2edge.stages.parity import check_parity
from torchopt2edge.stages.torch_export import UNEXPORTED, Trace, enough, hushed, short, traced
from torchopt2edge.types import Artifact, Facts, Signature, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
EXPORTER = ("onnxscript", "onnx-ir")
"""What torch's exporter writes with; nothing here imports it."""
_SAMPLES = 16  # of the calibration split, for the parity check


@dataclass(frozen=True, kw_only=True)
class Export:
    """Exports the net of the stage named ``source`` in ``opset``.

    The folder holds ``model.onnx`` (float32, dynamic batch where the net allows), its
    ``signature.json`` and ``model.pt2``, the same program for torch. Of a stage that trained
    with quantization (kind ``qat``) its export is passed on, with the learned ``ranges.json``.
    """

    data: DataSet
    source: str = "student"
    opset: int = OPSET

    tools = EXPORTER

    @property
    def kind(self) -> str:
        """An export artifact."""
        return "onnx"

    @property
    def needs(self) -> Mapping[str, str]:
        """The net to export."""
        return {"source": self.source}

    def __call__(self, inputs: Mapping[str, Artifact], out: Path) -> Facts:
        """Write the export into ``out``; parity is checked on calibration samples.

        Raises:
            ExportError: the net cannot be exported, or the file computes something else.
        """
        source = inputs["source"]
        if source.kind == "qat":
            return _passed_on(source, out)
        net = load_model(source.path)
        samples = self.data.split("calibration")
        images = [samples[i][0] for i in range(min(_SAMPLES, len(samples)))]
        return export_module(net, (torch.stack(images),), out, opset=self.opset)


def _passed_on(source: Artifact, out: Path) -> Facts:
    """Give the files of a net that was exported already a second name; ranges among them."""
    for name in ("model.onnx", "model.pt2", "signature.json", "ranges.json"):
        try:
            os.link(source.path / name, out / name)
        except OSError:  # another file system
            shutil.copyfile(source.path / name, out / name)
    return source.facts


def export_module(
    model: nn.Module, example_inputs: tuple[Tensor, ...], out: Path, *, opset: int = OPSET
) -> Facts:
    """Export ``model`` into the folder ``out`` and return facts about it.

    The first axis of every example input is the batch; real inputs, four or more, make the
    parity check worth something. Inputs are named as the arguments of ``forward``, outputs by
    the keys of a dict, else ``output``, or ``output_0``, ``output_1`` …. The batch is free where
    the net allows; else it is 1, and ``static_reason`` says why. The model is put back into the
    mode it was in.

    Raises:
        ExportError: it cannot be traced (`traced`), the exporter fails, an output is not a
            finite number, or the file agrees with the model to less than 60 dB.
    """
    if opset < OPSET:
        raise ConfigError(
            f"opset {opset} is older than the exporter can write", hint=f"opset={OPSET}"
        )
    with traced(model, example_inputs) as trace:
        return write_export(model, trace, out, opset)


def write_export(
    model: nn.Module,
    trace: Trace,
    out: Path,
    opset: int = OPSET,
    proto: ModelProto | None = None,
) -> Facts:
    """Write the export of ``model``, in eval mode on the CPU, and return its facts.

    ``trace`` is the net's own; ``proto`` is its graph where that was made already; parity is
    checked all the same.
    """
    import onnx

    inputs, reason = trace.inputs, trace.static_reason
    if proto is None:
        proto = onnx_of(trace.program, list(inputs), list(trace.outputs), opset)
    canonicalize(proto)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, out / "model.onnx")
    signature = Signature(
        tuple(_spec(name, value[:1], reason is None) for name, value in inputs.items()),
        tuple(_spec(name, value, reason is None) for name, value in trace.outputs.items()),
    )
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
    trace.program.example_inputs = None  # they are the user's samples, and most of the file
    torch.export.save(trace.program, out / "model.pt2")
    batches = (1, 4) if reason is None else (1,)
    facts: Facts = {
        "file": "model.onnx",
        "opset": opset,
        "dynamic_batch": reason is None,
        "params": count.params(model),
        "ops": dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        "nodes": len(proto.graph.node),
        **check_parity(model, enough(inputs, max(batches)), out / "model.onnx", batches),
    }
    first, *others = inputs.values()
    if not others and first.is_floating_point():
        facts["macs"] = count.macs(model, tuple(first.shape[1:]))
    return facts if reason is None else {**facts, "static_reason": reason}


def onnx_of(
    program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str], opset: int
) -> Any:
    """Write the program as ONNX, an ``onnx.ModelProto``.

    Raises:
        ExportError: the exporter cannot write an operation.
    """
    try:
        with hushed():
            made = torch.onnx.export(
                program,
                (),
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                optimize=False,  # its rules drop a constant below 1e-8: `simplify` does not
                verbose=False,
            )
    except UNEXPORTED as error:
        raise ExportError(
            f"the ONNX exporter failed: {short(error)}",
            hint="replace the operation it names, or raise the opset",
        ) from error
    assert made is not None
    return simplify(made.model_proto)


def _spec(name: str, value: Tensor, free: bool) -> TensorSpec:
    """Describe what one sample gives."""
    shape = (-1 if free else len(value), *value.shape[1:])
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, shape, dtype, file_name=name, file_dtype=dtype)
