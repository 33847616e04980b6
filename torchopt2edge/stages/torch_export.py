"""Trace a net: what an export is made of, and the content that it goes by.

Two nets are one when they trace to the same program over the same numbers. Neither the text of
their classes nor what their modules print tells: a plain attribute that ``forward`` reads, a
buffer that is not saved or a function in another file change what is computed.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchopt2edge.errors import ExportError
from torchopt2edge.models.eval_mode import modes_kept
from torchopt2edge.stages.parity import named_outputs
from torchopt2edge.training.unwrap import unwrapped


@dataclass(frozen=True)
class Trace:
    """A net that ran and was traced: example inputs and one sample's outputs, by name.

    ``static_reason`` says why the program's batch is fixed to 1; None when it is free.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    program: torch.export.ExportedProgram
    static_reason: str | None

    @property
    def digest(self) -> str:
        """A sha256 of the program, its numbers and the names and types of its ends."""
        total = hashlib.sha256(repr(self.static_reason).encode())
        for name, value in (*self.inputs.items(), *self.outputs.items()):
            total.update(f"{name}{tuple(value.shape[1:])}{value.dtype}".encode())
        for part in self.program.graph_module.modules():
            if isinstance(part, GraphModule):
                total.update(str(part.graph).encode())
        total.update(str(self.program.graph_signature).encode())
        for name, held in {**self.program.state_dict, **self.program.constants}.items():
            total.update(name.encode())
            total.update(_content(held))
        return total.hexdigest()


def _content(held: object) -> bytes:
    if not isinstance(held, Tensor):
        return os.urandom(16)  # an object of C++ may hold anything: never taken for the same
    numbers = held.detach().cpu().contiguous().reshape(-1)
    return f"{tuple(held.shape)}{held.dtype}".encode() + numbers.view(torch.uint8).numpy().tobytes()


Examples = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""Example inputs: one tensor, the positional arguments of ``forward``, or its keywords."""


class _Keywords(nn.Module):
    """A net whose forward takes positionally what the given one takes by keyword."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, *given: Tensor) -> object:
        """Hand the arguments on by name."""
        return self.net(**dict(zip(self.names, given, strict=True)))


def as_examples(given: Examples) -> tuple[Tensor, ...]:
    """Return the example inputs as a tuple."""
    if isinstance(given, Tensor):
        return (given,)
    return tuple(given.values()) if isinstance(given, Mapping) else tuple(given)


@contextmanager
def traced(model: nn.Module, example_inputs: Examples) -> Iterator[Trace]:
    """Trace ``model``, which is on the CPU and in eval mode meanwhile, and put back at the end.

    What spreads a net over devices, compiles or averages it is taken off. The first axis of every
    example input is the batch. Inputs are named as the arguments of ``forward``, outputs by the
    keys of a dict or the fields of a dataclass, else ``output``, or ``output_0``, ``output_1`` ….

    Raises:
        ExportError: the net does not run on them, is not float32, or cannot be traced.
    """
    model = unwrapped(model)
    example = tuple(value.detach().cpu() for value in as_examples(example_inputs))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    called = model
    if isinstance(example_inputs, Mapping):
        names = list(example_inputs)
        called = _Keywords(model, names)
    else:
        names = input_names(model, len(example))
    with modes_kept(model):
        try:
            model.cpu().eval()
            yield trace_of(called.eval(), dict(zip(names, example, strict=True)))
        finally:
            model.to(device)


def trace_of(model: nn.Module, inputs: dict[str, Tensor]) -> Trace:
    """Trace ``model``, in eval mode on the CPU, on inputs by name.

    Raises:
        ExportError: as `traced`.
    """
    _check_floats(model, inputs)
    outputs = _try(model, inputs)
    _check_outputs(model, outputs)
    return Trace(inputs, outputs, *program_of(model, inputs))


def input_names(model: nn.Module, number: int) -> list[str]:
    """Return the names of the first ``number`` arguments of the model's forward.

    Raises:
        ExportError: forward takes fewer arguments than that, or needs more.
    """
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(model.forward).parameters.values()
    arguments = [p for p in taken if p.kind in kinds]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in taken):
        rest = range(number - len(arguments))
        return [*(p.name for p in arguments[:number]), *(f"input_{at}" for at in rest)]
    needed = [p.name for p in arguments if p.default is inspect.Parameter.empty]
    if len(arguments) < number or len(needed) > number:
        raise ExportError(
            f"{number} example inputs for a forward({', '.join(p.name for p in arguments)})",
            artifact=type(model).__name__,
            hint="give one tensor for each argument",
        )
    return [p.name for p in arguments[:number]]


def _try(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run one sample, so that a net that does not run is not taken for one that cannot be traced.

    Raises:
        ExportError: it does not run, or returns something else than tensors.
    """
    try:
        with torch.no_grad():
            return named_outputs(model(*(value[:1] for value in inputs.values())))
    except UNEXPORTED as error:
        raise ExportError(
            f"the net does not run on one sample of its example inputs: {short(error)}",
            artifact=type(model).__name__,
            hint="give inputs of the shape that it takes, with the batch as first axis",
        ) from error


def _check_floats(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Refuse numbers that are not float32: what a file computes in is the scheme's to say."""
    held = chain(model.named_parameters(), model.named_buffers(), inputs.items())
    for name, value in held:
        if (value.is_floating_point() or value.is_complex()) and value.dtype != torch.float32:
            raise ExportError(
                f"the net is not float32: {name!r} is {_dtype(value)}",
                artifact=type(model).__name__,
                hint="give net.float() and float32 inputs; schemes= chooses the files' precision",
            )


def _check_outputs(model: nn.Module, outputs: Mapping[str, Tensor]) -> None:
    """Refuse what no runtime gives out, or what belongs to no sample."""
    for name, value in outputs.items():
        if value.is_complex():
            raise ExportError(
                f"the output {name!r} is {_dtype(value)}, and no runtime takes complex numbers",
                artifact=type(model).__name__,
                hint="return torch.view_as_real(value), or its magnitude",
            )
        if value.ndim == 0:
            raise ExportError(
                f"the output {name!r} is a single number, not one of each sample",
                artifact=type(model).__name__,
                hint="return tensors with the batch as first axis; leave a loss out of forward",
            )


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def enough(inputs: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Repeat samples until there are ``number``: the batch sizes must be run."""
    return {
        name: torch.cat([value] * -(-number // len(value))) if len(value) < number else value
        for name, value in inputs.items()
    }


def program_of(
    model: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[torch.export.ExportedProgram, str | None]:
    """Return the traced program, and why its batch had to be fixed (None when it is free).

    Raises:
        ExportError: it cannot be traced even with a fixed batch.
    """
    two = tuple(value[:2] for value in enough(inputs, 2).values())
    one = tuple(value[:1] for value in inputs.values())
    batch = torch.export.Dim("batch", min=1)
    free = tuple({0: batch} for _ in two)
    try:
        with hushed():
            program = torch.export.export(model, two, dynamic_shapes=free)
        reason = _bound_outputs(program)
        if reason is None:
            return program, None
    except UNEXPORTED as error:
        reason = short(error)
    try:
        with hushed():
            return torch.export.export(model, one), reason
    except UNEXPORTED as error:
        raise ExportError(
            f"torch.export cannot trace the net: {short(error)}",
            artifact=type(model).__name__,
            hint="take control flow that depends on values out of forward (torch.where picks "
            "between two results, torch.cond between two functions)",
        ) from error


def _bound_outputs(program: torch.export.ExportedProgram) -> str | None:
    """Say which outputs have another first axis than the free batch; None when all have it."""
    ends = list(program.graph.nodes)
    shapes = [n.meta["val"].shape for n in ends if n.name in program.graph_signature.user_inputs]
    batch = str(shapes[0][0])
    made = {n.name: n.meta["val"] for n in ends if n.name in program.graph_signature.user_outputs}
    loose = [name for name, v in made.items() if str(v.shape[0]) != batch]
    return f"{', '.join(loose)}: the first axis is not the batch" if loose else None


# What torch.export and the exporter raise on a net they cannot take.
UNEXPORTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,  # torch._dynamo's and torch.onnx's own errors are RuntimeErrors
    TypeError,
    ValueError,
)


def short(error: BaseException) -> str:
    """Return the innermost cause's first telling line, and the line of code it is about."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -\t") for line in str(error).splitlines()]
    lines = [
        line for line in lines if line and not line.startswith(("Constraints violated", "For"))
    ]
    code = re.search(r'raised this error:\s+File "(.+)", line (\d+), in .+\n\s+(.+)', str(error))
    where = f" in {Path(code[1]).name}, line {code[2]}: {code[3].strip()}" if code else ""
    return f"{type(error).__name__}: {(lines or [''])[0][:300].rstrip('. ')}{where}"


@contextmanager
def hushed() -> Iterator[None]:
    """Hush what the exporter says of its own insides; its errors are exceptions.

    What it got wrong, the parity check finds.
    """
    tracer = "torch.fx.experimental.symbolic_shapes"
    names = ["torch.onnx", "torch.export", "torch._dynamo", tracer, "onnxscript", "onnx_ir"]
    names += ["torch.utils._pytree", "torchao"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        said = io.StringIO()  # of a net that it cannot trace it prints the whole graph
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
