"""The float graph of a model, which every backend shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ExportError
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.store import Store, key_of
from torchopt2edge.types import Artifact, Facts, Ranges
from torchopt2edge.workflow.calibration import link

if TYPE_CHECKING:
    from onnx import ModelProto

SOURCE = "source.onnx"
"""The float model as it came, beside the shared graph: nothing of it is rewritten."""


def share_graph(
    onnx_file: Path,
    digest: str,
    store: Store,
    preprocess: Preprocess | None = None,
    shapes: Mapping[str, Sequence[int]] | Sequence[int] = (),
) -> Artifact:
    """Make the float graph that every backend shares, with the PyTorch program if there is one.

    ``onnx_file`` may have a ``model.pt2`` beside it, as an export has, and a ``ranges.json`` of
    what training learned; a quantized file is split into its float graph and those ranges.
    ``preprocess`` goes into the signature: what makes the input of a raw image. ``shapes`` are the
    sizes of inputs that the file leaves free, by name, or one for its only input. The float model
    as it came lies beside the graph (`faithful.SOURCE`).
    """
    inputs = {"onnx": digest}
    for role, name in (("ranges", "ranges.json"), ("program", "model.pt2")):
        if (beside := onnx_file.with_name(name)).is_file():
            inputs[role] = file_digest(beside)
    given = None if preprocess is None else preprocess.to_json()
    sizes = _plain(shapes)
    key = key_of([_write_graph, given, sizes], inputs)
    return store.make(key, "graph", partial(_write_graph, onnx_file, preprocess, sizes))[0]


def _plain(shapes: Mapping[str, Sequence[int]] | Sequence[int]) -> Any:
    """Return the shapes as a dict of lists, or one list."""
    if isinstance(shapes, Mapping):
        return {str(name): [int(size) for size in shape] for name, shape in shapes.items()}
    return [int(size) for size in shapes]


def _write_graph(
    onnx_file: Path,
    preprocess: Preprocess | None,
    sizes: Mapping[str, Sequence[int]] | Sequence[int],
    out: Path,
) -> Facts:
    import onnx

    from torchopt2edge.quantize.graph import prepare
    from torchopt2edge.quantize.qat_ranges import carry
    from torchopt2edge.samples.raw_images import with_preprocess

    proto, ranges = _learned(onnx_file)
    proto = prepare.settled(_sized(proto, sizes, onnx_file), onnx_file)
    onnx.save(proto, out / SOURCE)
    proto, left_out = _prepared(proto, onnx_file)
    onnx.save(proto, out / "model.onnx")
    signature = prepare.signature_of(proto, onnx_file)
    if preprocess is not None:
        signature = with_preprocess(signature, preprocess)
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
    if ranges is not None:
        (out / "ranges.json").write_text(json.dumps(carry(ranges, proto).to_json()))
    program = onnx_file.with_name("model.pt2")
    if program.is_file():
        link(program, out / "model.pt2")
    facts: Facts = {"inputs": [spec.name for spec in signature.inputs]}
    if not left_out:
        return facts
    note = "left out of the graph, because ONNX Runtime cannot load it with them"
    return {**facts, "left_out": list(left_out), "notes": [f"{note}: {', '.join(left_out)}"]}


def _prepared(source: ModelProto, onnx_file: Path) -> tuple[ModelProto, Sequence[str]]:
    """Prepare a graph; leave out by name the rewrites after which ONNX Runtime cannot load it.

    Raises:
        ExportError: it cannot be prepared, or ONNX Runtime cannot load the file as it came.
    """
    from torchopt2edge.quantize.graph import prepare
    from torchopt2edge.quantize.graph.leave_out import smallest

    def made(left_out: Sequence[str]) -> ModelProto:
        copy = type(source)()
        copy.CopyFrom(source)
        return prepare.prepared(copy, onnx_file, left_out)

    def holds(left_out: Sequence[str]) -> bool:
        try:
            made(left_out)
        except ExportError:
            return False
        return True

    try:
        return made(()), ()
    except ExportError:
        if not holds(prepare.REWRITES):
            raise
    left_out = smallest(prepare.REWRITES, holds)
    return made(left_out), left_out


def _sized(
    proto: ModelProto, sizes: Mapping[str, Sequence[int]] | Sequence[int], onnx_file: Path
) -> ModelProto:
    """Give the inputs the sizes that the user gave, or the samples have."""
    from torchopt2edge.quantize.graph import shapes

    if not sizes:
        return proto
    shapes.normalize_free(proto.graph)
    named = sizes if isinstance(sizes, Mapping) else shapes.only(proto, sizes, onnx_file)
    return shapes.pin(proto, named, onnx_file)


def _learned(onnx_file: Path) -> tuple[ModelProto, Ranges | None]:
    """Return the float graph of a file, and the ranges that training learned, if any.

    The ranges lie beside the file, or in a quantized file, which is taken apart.
    """
    from torchopt2edge.quantize.graph.prepare import load
    from torchopt2edge.quantize.qat_ranges import unquantize
    from torchopt2edge.quantize.qdq_reader import is_qdq

    proto = load(onnx_file)
    beside = onnx_file.with_name("ranges.json")
    if beside.is_file():
        try:
            return proto, Ranges.from_json(json.loads(beside.read_text()))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ExportError(
                "the ranges beside this model cannot be read",
                artifact=beside,
                hint="remove the file, or write it again with finish() of qat",
            ) from error
    return unquantize(proto, onnx_file) if is_qdq(proto) else (proto, None)


def file_digest(path: Path) -> str:
    """Return the sha256 of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
