"""What a .tflite really does, read back from the file and from the interpreter that loaded it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchopt2edge.backends.litert import inspect_child
from torchopt2edge.backends.litert.flatbuffer import Op, TfliteGraph
from torchopt2edge.backends.litert.op_map import MOVES
from torchopt2edge.backends.silence import quiet
from torchopt2edge.errors import LowerError
from torchopt2edge.types import Facts, Scheme

WHOLE = frozenset({"int8", "uint8", "int16"})
CASTS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"})
STORED = ("fp32", "fp16", "int8_weights")
"""Schemes that multiply floats: only what is stored differs."""


def facts_of(graph: TfliteGraph, file: Path) -> Facts:
    """Return what the file ``file``, read as ``graph``, holds.

    ``ops`` counts operators by type; ``integer_ops``, ``hybrid_ops`` and ``float_ops`` those that
    compute, by what they compute in (`computes`), ``int8_macs`` the share of the multiply-
    accumulates at batch 1 that run on integers, in per cent; ``transposes`` the TRANSPOSE
    operators; ``zeros`` is the per cent of weights that are zero; ``partitions`` and
    ``outside_ops`` are of this host (`partitions`, `outside`).
    """
    by_type: dict[str, Counter[str]] = {way: Counter() for way in ("integer", "hybrid", "float")}
    macs: Counter[str] = Counter()
    for op in graph.ops:
        how = computes(op)
        if how:
            by_type[how][op.kind] += 1
            macs[how] += macs_of(op)
    total = macs.total()
    plan = plan_of(file)
    share = 100.0 * (macs["integer"] + macs["hybrid"]) / total if total else 0.0
    return {
        "ops": _counts(op.kind for op in graph.ops),
        **{f"{how}_ops": dict(found.most_common()) for how, found in by_type.items()},
        "int8_macs": round(share, 2),
        "zeros": zeros(graph),
        "transposes": sum(op.kind == "TRANSPOSE" for op in graph.ops),
        "partitions": partitions(plan),
        "outside_ops": _counts(outside(plan)),
    }


def zeros(graph: TfliteGraph) -> float:
    """Return the per cent of zeros among the weights: constants of two dimensions or more."""
    weights = {
        tensor.name: tensor.data
        for op in graph.ops
        for tensor in op.given
        if tensor is not None and tensor.data is not None and tensor.data.ndim > 1
    }
    known = [data for data in weights.values() if data.dtype in (np.float32, np.float16, np.int8)]
    total = sum(data.size for data in known)
    gone = sum(data.size - int(np.count_nonzero(data)) for data in known)
    return round(100.0 * gone / total, 2) if total else 0.0


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    return dict(Counter(kinds).most_common())


def computes(op: Op) -> str:
    """Tell what an operator computes in: ``integer``, ``hybrid``, ``float``, or "" when it
    computes no number (it moves or casts, or makes indices).

    Hybrid are float activations with int8 weights in one operator: the kernel turns the
    activations into int8 as it runs, and multiplies integers. Weights that a DEQUANTIZE reads
    back first are float.
    """
    made = set() if op.kind in MOVES | CASTS else {tensor.dtype for tensor in op.made}
    if made & WHOLE:
        return "integer"
    if "float32" not in made:
        return ""
    held = (tensor for tensor in op.given if tensor is not None and tensor.data is not None)
    return "hybrid" if any(t.dtype == "int8" and t.scales for t in held) else "float"


def macs_of(op: Op) -> int:
    """Return the multiply-accumulates of one operator from its tensors' shapes, 0 of a light one.

    A transposed convolution counts every input value times its kernel.
    """
    made = math.prod(op.made[0].shape) if op.made else 0
    if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
        return made * math.prod(_shape(op, 1)[1:])
    if op.kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(_shape(op, 1)[1:3])
    if op.kind == "TRANSPOSE_CONV":
        return math.prod(_shape(op, 2)) * math.prod(_shape(op, 1)[:3])
    if op.kind == "BATCH_MATMUL":
        rows, across = op.made[0].shape[-2], math.prod(_shape(op, 0)[-2:])
        return made * across // max(1, rows)
    return 0


def _shape(op: Op, place: int) -> tuple[int, ...]:
    tensor = op.given[place]
    return () if tensor is None else tensor.shape


def plan_of(file: Path) -> Facts:
    """Return the nodes of the main subgraph's plan once LiteRT has loaded the file here.

    ``nodes`` have an index, a kind (DELEGATE is a piece that XNNPACK took), inputs and outputs;
    ``outputs`` are the file's. Another processor's build may cut otherwise.

    Raises:
        LowerError: LiteRT cannot load the file, or dies of it.
    """
    command = [sys.executable, "-P", str(Path(inspect_child.__file__)), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        found: Facts = json.loads(done.stdout)
        return found
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode > 0:
        raise LowerError(f"LiteRT cannot open this file: {last}", artifact=file)
    raise LowerError(
        f"LiteRT dies of this file ({signal.Signals(-done.returncode).name}): {last}",
        artifact=file,
        hint="look for weights or activations that are infinite, or huge, in the float model",
    )


def partitions(plan: Facts) -> int:
    """Count the pieces of the graph that XNNPACK takes over, of a `plan_of`.

    Everything in one piece is 1; each further one is another way out of the delegate and back. 0
    means that nothing runs in XNNPACK.
    """
    return sum(node["kind"] == "DELEGATE" for node in plan["nodes"])


def outside(plan: Facts) -> list[str]:
    """Name the kinds of the operators that LiteRT runs itself, outside of XNNPACK.

    Walked back from the outputs: what a DELEGATE node makes is inside, and what it takes is
    wanted next; an operator that nobody but the delegate replaced is never reached.
    """
    makers: dict[int, Facts] = {}
    for node in sorted(plan["nodes"], key=lambda node: node["kind"] == "DELEGATE"):
        makers.update(dict.fromkeys(node["outputs"], node))
    wanted, seen = list(plan["outputs"]), set[int]()
    kept: dict[int, str] = {}
    while wanted:
        tensor = wanted.pop()
        maker = makers.get(tensor)
        if tensor in seen or maker is None:
            continue
        seen.add(tensor)
        if maker["kind"] != "DELEGATE":
            kept[maker["index"]] = maker["kind"]
        wanted += maker["inputs"]
    return list(kept.values())


def interpreter_of(file: Path, threads: int) -> Any:
    """Load the file as LiteRT does by default: with XNNPACK.

    Raises:
        LowerError: LiteRT cannot load the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with quiet():  # TensorFlow Lite tells the terminal that it made its delegate
            interpreter = Interpreter(str(file), num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise LowerError(f"LiteRT cannot open this file: {error}", artifact=file) from error
    return interpreter


def unrun(file: Path) -> Any:
    """Load the file to read its ends, without XNNPACK and without memory for its tensors.

    Raises:
        LowerError: LiteRT cannot load the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    bare = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return Interpreter(str(file), experimental_op_resolver_type=bare)
    except (ValueError, RuntimeError) as error:
        raise LowerError(f"LiteRT cannot open this file: {error}", artifact=file) from error


def scheme_of(graph: TfliteGraph) -> str:
    """Name the scheme that a file is in, by what its operators compute in and what it stores."""
    how = {computes(op) for op in graph.ops}
    if "integer" in how:
        made = {tensor.dtype for op in graph.ops for tensor in op.made}
        if "int16" in made:
            return "int16x8"
        ends = {tensor.dtype for tensor in (*graph.inputs, *graph.outputs) if tensor.scales}
        return "int8_io" if ends & WHOLE else "int8"
    if "hybrid" in how:
        return "int8_dynamic"
    read_back = (t for op in graph.ops if op.kind == "DEQUANTIZE" for t in op.given)
    stored = {t.dtype for t in read_back if t is not None and t.data is not None}
    if "int8" in stored:
        return "int8_weights"
    return "fp16" if "float16" in stored else "fp32"


def check_label(graph: TfliteGraph, scheme: Scheme, facts: Facts, file: Path) -> None:
    """Refuse a file that is not what its scheme says.

    Raises:
        LowerError: no operator took the scheme's numbers, or no multiplication runs on integers.
    """
    found = scheme_of(graph)
    if found == scheme.name and (facts["int8_macs"] > 0 or scheme.name in STORED):
        return
    raise LowerError(
        f"nothing in this file is {scheme.name}: it computes as {found}, "
        f"{facts['int8_macs']} % of its multiplications on integers",
        artifact=file,
        hint="leave this scheme out for this net, or exclude fewer operators",
    )


def left_in_float(graph: TfliteGraph, parts: Mapping[str, tuple[Op, ...]]) -> list[str]:
    """Name the ONNX nodes whose every computing operator is in float in this file.

    ``parts`` holds the operators of each node in the float file; the quantizer keeps the names of
    what they make.
    """
    floats = {(op.kind, name) for op in graph.ops if computes(op) == "float" for name in op.outputs}

    def stayed(ops: tuple[Op, ...]) -> bool:
        found = [(op.kind, name) for op in ops if op.kind not in MOVES for name in op.outputs]
        return bool(found) and set(found) <= floats

    return [name for name, ops in parts.items() if stayed(ops)]
