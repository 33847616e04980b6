"""PyTorch → one float ONNX file: the hub that every backend lowers."""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchopt2edge.canonicalize import canonicalize
from torchopt2edge.data.dataset import DataSet
from torchopt2edge.errors import ConfigError, ExportError
from torchopt2edge.models import count
from torchopt2edge.models.artifact import load_model
from torchopt2edge.models.mode import modes_kept
from torchopt2edge.stages.parity import check_parity, named_outputs
from torchopt2edge.types import Artifact, Facts, Signature, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

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
    opset: int = 18

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
    model: nn.Module, example_inputs: tuple[Tensor, ...], out: Path, *, opset: int = 18
) -> Facts:
    """Export ``model`` into the folder ``out`` and return facts about it.

    The first axis of every example input is the batch; real inputs, four or more, make the
    parity check worth something. Inputs are named as the arguments of ``forward``, outputs by
    the keys of a dict, else ``output``, or ``output_0``, ``output_1`` …. The batch is free where
    the net allows; else it is 1, and ``static_reason`` says why. The model is put back into the
    mode it was in.

    Raises:
        ExportError: the exporter fails, an output is not a finite number, or the file agrees
            with the model to less than 60 dB.
    """
    if opset < 18:
        raise ConfigError(f"opset {opset} is older than the exporter can write", mend="opset=18")
    example = tuple(value.detach().cpu() for value in example_inputs)
    names = input_names(model, len(example))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with modes_kept(model):
        try:
            return write_export(
                model.cpu().eval(), dict(zip(names, example, strict=True)), out, opset
            )
        finally:
            model.to(device)


def input_names(model: nn.Module, number: int) -> list[str]:
    """Return the names of the first ``number`` arguments of the model's forward.

    Raises:
        ExportError: forward takes fewer arguments than that, or needs more.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(model.forward).parameters.values()
    arguments = [p for p in taken if p.kind in kinds]
    needed = [p.name for p in arguments if p.default is inspect.Parameter.empty]
    if len(arguments) < number or len(needed) > number:
        raise ExportError(
            f"{number} example inputs for a forward({', '.join(p.name for p in arguments)})",
            artifact=type(model).__name__,
            mend="give one tensor for each argument",
        )
    return [p.name for p in arguments[:number]]


def write_export(
    model: nn.Module,
    inputs: dict[str, Tensor],
    out: Path,
    opset: int,
    proto: ModelProto | None = None,
) -> Facts:
    """Write the export of ``model``, in eval mode on the CPU, and return its facts.

    ``proto`` is its graph where that was made already; parity is checked all the same.
    """
    import onnx

    outputs = _try(model, inputs)
    program, reason = program_of(model, inputs)
    if proto is None:
        proto = onnx_of(program, list(inputs), list(outputs), opset)
    canonicalize(proto)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, out / "model.onnx")
    signature = Signature(
        tuple(_spec(name, value, reason is None) for name, value in inputs.items()),
        tuple(_spec(name, value, reason is None) for name, value in outputs.items()),
    )
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
    torch.export.save(program, out / "model.pt2")
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


def _try(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run one sample, so that a net that does not run is not taken for one that cannot be traced.

    Raises:
        ExportError: it does not run, or returns something else than tensors.
    """
    try:
        with torch.no_grad():
            return named_outputs(model(*(value[:1] for value in inputs.values())))
    except _UNEXPORTED as error:
        raise ExportError(
            f"the net does not run on one sample of its example inputs: {_short(error)}",
            artifact=type(model).__name__,
            mend="give inputs of the shape that it takes, with the batch as first axis",
        ) from error


def enough(inputs: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Repeat samples until there are ``number``: the batch sizes must be run."""
    return {
        name: torch.cat([value] * -(-number // len(value))) if len(value) < number else value
        for name, value in inputs.items()
    }


def program_of(
    model: nn.Module, inputs: dict[str, Tensor]
) -> tuple[torch.export.ExportedProgram, str | None]:
    """Return the traced program, and why its batch had to be fixed (None when it is free)."""
    two = tuple(value[:2] for value in enough(inputs, 2).values())
    one = tuple(value[:1] for value in inputs.values())
    batch = torch.export.Dim("batch", min=1)
    free = tuple({0: batch} for _ in two)
    try:
        with hushed():
            return torch.export.export(model, two, dynamic_shapes=free), None
    except _UNEXPORTED as error:
        reason = _short(error)
    try:
        with hushed():
            return torch.export.export(model, one), reason
    except _UNEXPORTED as error:
        raise ExportError(
            f"torch.export cannot trace the net: {_short(error)}",
            artifact=type(model).__name__,
            mend="take data-dependent control flow out of forward",
        ) from error


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
                verbose=False,
            )
    except _UNEXPORTED as error:
        raise ExportError(
            f"the ONNX exporter failed: {_short(error)}",
            mend="replace the operation it names, or raise the opset",
        ) from error
    assert made is not None
    return made.model_proto


# What torch.export and the exporter raise on a net they cannot take.
_UNEXPORTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,  # torch._dynamo's and torch.onnx's own errors are RuntimeErrors
    TypeError,
    ValueError,
)


def _short(error: BaseException) -> str:
    """Return the innermost cause's first telling line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -\t") for line in str(error).splitlines()]
    lines = [
        line for line in lines if line and not line.startswith(("Constraints violated", "For"))
    ]
    return f"{type(error).__name__}: {(lines or [''])[0][:300]}"


def _spec(name: str, value: Tensor, free: bool) -> TensorSpec:
    shape = (-1 if free else 1, *value.shape[1:])
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, shape, dtype, file_name=name, file_dtype=dtype)


@contextmanager
def hushed() -> Iterator[None]:
    """Hush what the exporter says of its own insides; its errors are exceptions."""
    tracer = "torch.fx.experimental.symbolic_shapes"
    names = ["torch.onnx", "torch.export", "torch._dynamo", tracer, "onnxscript", "onnx_ir"]
    names += ["torch.utils._pytree", "torchao"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
