"""ONNX Runtime on CPU: float, float16, int8 weights, dynamic int8, static per-channel int8."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.backends.file_session import Array, FileSession
from torchopt2edge.errors import LowerError
from torchopt2edge.interfaces import Sources
from torchopt2edge.quantize import isa
from torchopt2edge.quantize.graph.host_session import ort_errors
from torchopt2edge.types import Artifact, Facts, Ranges, Scheme, Signature

if TYPE_CHECKING:
    from onnx import ModelProto

    from torchopt2edge.interfaces import ArtifactStore

# By the processor that a file is made for: the type of its activations, and whether the products
# must be exact without VNNI too (`quantize.saturation`). "portable" is exact on every processor.
ISA = {
    isa.X86_VNNI: ("uint8", False),
    isa.X86: ("uint8", True),
    isa.ARM64: ("int8", False),
    isa.PORTABLE: ("uint8", True),
}
SLOW = {
    "fp16": "fp16 halves the file and gains no speed on CPUs without float16 kernels (x86): "
    "ONNX Runtime computes in fp32 there",
    "int8_dynamic": "convolutions whose ranges are found at run time are often slower than in "
    "fp32; int8 with calibration data is faster",
}


@dataclass(frozen=True)
class Ort:
    """The ONNX Runtime backend.

    Attributes:
        isa: the instruction set of the *target*, one of `ISA`, or "auto" for that of the device
            that measures ("portable" where no device is known). On x86 with VNNI U8S8 is fast and
            S8S8 four times slower; without VNNI layers that can saturate are U8U8; on arm64 it is
            S8S8.
        optimize: False opens files without graph rewriting, which is how a float ONNX serves as its
            own reference.
    """

    isa: str = "auto"
    optimize: bool = True

    name = "ort"
    schemes = ("fp32", "fp16", "int8_weights", "int8_dynamic", "int8", "int8_io")
    tools = ("onnx", "onnxruntime")
    runtime_module = "onnxruntime"
    library = "onnxruntime/capi/onnxruntime_pybind11_state*.so"
    suffix = ".onnx"

    @property
    def _isa(self) -> str:
        return isa.PORTABLE if self.isa == "auto" else self.isa

    def for_target(self, facts: Facts) -> Ort:
        """Return the backend with the integer types of the target, unless they are set."""
        return replace(self, isa=isa_of(facts)) if self.isa == "auto" else self

    def base(self, graph: Artifact, store: ArtifactStore) -> Artifact:
        """Return the shared float graph itself: every scheme is lowered from it."""
        return graph

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write ``model.onnx`` and ``signature.json``; the facts are those of the written graph.

        Raises:
            LowerError: a tensor has no range, or nothing in the file is what the scheme says.
        """
        from torchopt2edge.backends.ort.inspect import read_back
        from torchopt2edge.quantize.graph.macs import macs_of
        from torchopt2edge.quantize.graph.strip import compact, names_of

        source, target = sources.graph.path / "model.onnx", out / "model.onnx"
        ranges, written = self._ranges(sources, scheme), sources.model
        shutil.copyfile(sources.graph.path / "signature.json", out / "signature.json")
        if scheme.name == "fp32":
            shutil.copyfile(source, target)
        else:
            lowered = self._lowered(sources, scheme, ranges, out / "signature.json")
            written = compact(lowered, names_of(sources.model))
            target.write_bytes(written.SerializeToString())
        macs, excluded = macs_of(sources.model), ranges.excluded if ranges else ()
        facts: Facts = {"file": target.name, **read_back(written, macs, excluded)}
        if ranges is not None:
            facts["ranges_origin"] = ranges.origin
        if scheme.weights == "int8" and scheme.activations != "float32":
            _check(facts, scheme, bool(macs), target)
        if scheme.name in SLOW and (scheme.name == "fp16" or "ConvInteger" in facts["integer_ops"]):
            facts["notes"] = [SLOW[scheme.name]]
        if scheme.name == "fp32":
            return facts
        _note_processors(out / "signature.json", facts["exact_on"])
        return {**facts, "isa": self._isa}

    def _ranges(self, sources: Sources, scheme: Scheme) -> Ranges | None:
        if not scheme.needs_ranges:
            return None
        if sources.ranges is None:
            raise LowerError(f"{scheme.name} takes activation ranges", hint="pass calibration data")
        return sources.ranges

    def _lowered(
        self, sources: Sources, scheme: Scheme, ranges: Ranges | None, signature: Path
    ) -> ModelProto:
        """Return the graph in a scheme; rewrite its signature where inputs or outputs change."""
        from torchopt2edge.backends.ort.dynamic_int8 import to_dynamic_int8
        from torchopt2edge.backends.ort.integer_io import to_integer_io
        from torchopt2edge.backends.ort.weight_only import to_float16, to_int8_weights
        from torchopt2edge.quantize.qdq_writer import IntegerTypes, modernized, quantize_graph

        if self._isa not in ISA:
            raise LowerError(f"there is no isa {self.isa!r}", hint=f"isa= one of {', '.join(ISA)}")
        dtype, exact = ISA[self._isa]
        if ranges is not None:
            file, types = sources.graph.path / "model.onnx", IntegerTypes(dtype, exact)
            proto = quantize_graph(sources.model, ranges, types, file)
            if scheme.io != "float32":
                before = Signature.from_json(json.loads(signature.read_text()))
                after = to_integer_io(proto, before, ranges.bounds, dtype)
                signature.write_text(json.dumps(after.to_json(), indent=1))
            return proto
        proto = modernized(sources.model)
        if scheme.name == "fp16":
            return to_float16(proto)
        if scheme.name == "int8_weights":
            to_int8_weights(proto)
        else:
            to_dynamic_int8(proto, exact_everywhere=exact)
        return proto

    def read_signature(self, file: Path) -> Signature:
        """Read a file's inputs and outputs, integer ones with their quantization."""
        from torchopt2edge.backends.ort.integer_io import read_integer_io
        from torchopt2edge.quantize.graph.prepare import load, signature_of

        proto = load(file)
        return read_integer_io(proto, signature_of(proto, file))

    def read_scheme(self, file: Path) -> str:
        """Read the scheme off a file's operators and weights."""
        from torchopt2edge.backends.ort.inspect import scheme_of
        from torchopt2edge.quantize.graph.prepare import load

        return scheme_of(load(file))

    def read_facts(self, file: Path) -> Facts:
        """Count what a file computes in, and what ONNX Runtime makes of it (`read_back`)."""
        from torchopt2edge.backends.ort.inspect import read_back
        from torchopt2edge.quantize.graph.macs import macs_of
        from torchopt2edge.quantize.graph.prepare import load

        proto = load(file)
        return read_back(proto, macs_of(proto))

    def open(self, file: Path, signature: Signature, threads: int) -> FileSession:
        """Open a file with pinned threads and no spinning: a session that waits costs nothing.

        Raises:
            LowerError: ONNX Runtime cannot load the file.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self.optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except ort_errors() as error:
            raise LowerError(
                f"ONNX Runtime cannot open this file: {str(error).splitlines()[0]}", artifact=file
            ) from error
        names = [spec.file_name for spec in signature.outputs]

        def execute(feeds: Mapping[str, Array]) -> dict[str, Array]:
            outputs = session.run(names, feeds)
            return {name: outputs[at] for at, name in enumerate(names)}

        return FileSession(signature, execute)

    def profile(
        self, file: Path, threads: int, arrays: Mapping[str, Array], runs: int
    ) -> list[Facts]:
        """Return the time that each kernel takes (`ort.profile.profile`)."""
        from torchopt2edge.backends.ort.profile import profile

        return profile(file, threads, arrays, runs)

    def receipt(self) -> Facts:
        """Return the runtime, its version and the pinned options."""
        import onnxruntime as ort

        return {
            "runtime": "onnxruntime",
            "runtime_version": ort.__version__,
            "provider": "CPUExecutionProvider",
            "spinning": False,
            "graph_optimization": "all" if self.optimize else "none",
        }


def isa_of(facts: Facts) -> str:
    """Return the key of `ISA` for a device's facts."""
    return isa.preset_of(isa.kind_of(facts))


def _note_processors(signature: Path, exact_on: Sequence[str]) -> None:
    """Write beside a file on which kinds of processor its outputs are the checked ones."""
    data = json.loads(signature.read_text())
    signature.write_text(json.dumps({**data, "exact_on": list(exact_on)}, indent=1))


def _check(facts: Facts, scheme: Scheme, has_layers: bool, file: Path) -> None:
    """Refuse a file whose scheme says integers when no layer runs on them.

    Raises:
        LowerError: no layer is on integers, or no operator at all in a graph without layers.
    """
    if (facts["int8_macs"] > 0) if has_layers else facts["integer_ops"]:
        return
    floats = ", ".join(f"{count} {op}" for op, count in facts["float_ops"].items()) or "nothing"
    raise LowerError(
        f"nothing of this model would run on integers under {scheme.name}: {floats} stay in float",
        artifact=file,
        hint="exclude fewer nodes, or leave the scheme out for this backend",
    )
