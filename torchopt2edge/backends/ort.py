"""ONNX Runtime on CPU: fp32 as it is, int8 as static per-channel QDQ."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.backends.compact import compact, names_of
from torchopt2edge.backends.session import FileSession
from torchopt2edge.errors import LowerError
from torchopt2edge.protocols import Sources
from torchopt2edge.quantize.runtime import ort_errors
from torchopt2edge.types import Artifact, Facts, Ranges, Scheme, Signature

if TYPE_CHECKING:
    from torchopt2edge.store import Store

# Activation and weight types by the target's instruction set, and whether the weights give up
# a bit: without VNNI the u8·s8 products are added in pairs in 16 bits and saturate.
ISA = {
    "x86-vnni": ("QUInt8", "QInt8", False),
    "x86": ("QUInt8", "QInt8", True),
    "arm64": ("QInt8", "QInt8", False),
}


@dataclass(frozen=True)
class Ort:
    """The ONNX Runtime backend.

    ``isa`` is the *target's*, one of `ISA`, or "auto" for that of the device that measures: on
    x86 with VNNI U8S8 is fast and S8S8 four times slower; on arm64 it is S8S8. ``optimize=False``
    opens files without graph rewriting, which is how a float ONNX serves as its own reference.
    """

    isa: str = "auto"
    optimize: bool = True

    name = "ort"
    schemes = ("fp32", "int8")
    tools = ("onnx", "onnxruntime")
    runtime_module = "onnxruntime"
    suffix = ".onnx"

    @property
    def _isa(self) -> str:
        return "x86-vnni" if self.isa == "auto" else self.isa

    def for_target(self, facts: Facts) -> Ort:
        """Choose the integer types for the target's instruction set, unless they were chosen."""
        return replace(self, isa=isa_of(facts)) if self.isa == "auto" else self

    def base(self, graph: Artifact, store: Store) -> Artifact:
        """Lower straight from the shared float graph."""
        return graph

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write ``model.onnx`` and ``signature.json``.

        Raises:
            LowerError: the quantizer fails on this graph.
        """
        source, target = sources.graph.path / "model.onnx", out / "model.onnx"
        shutil.copyfile(sources.graph.path / "signature.json", out / "signature.json")
        if scheme.name == "fp32":
            shutil.copyfile(source, target)
        elif sources.ranges is None:
            raise LowerError(f"{scheme.name} takes activation ranges", mend="pass calibration data")
        else:
            self._quantize(source, sources.ranges, target)
        facts: Facts = {"file": target.name, **_count(target)}
        return facts if scheme.name == "fp32" else {**facts, "isa": self._isa}

    def _quantize(self, source: Path, ranges: Ranges, target: Path) -> None:
        """Insert QuantizeLinear/DequantizeLinear pairs with the given ranges."""
        import numpy as np
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        if self._isa not in ISA:
            raise LowerError(f"there is no isa {self.isa!r}", mend=f"isa= one of {', '.join(ISA)}")
        activation, weight, reduce_range = ISA[self._isa]
        bounds = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.bounds.items()
        }
        try:
            float_graph = _modern(source)
            known = names_of(float_graph)
            quantizer = QDQQuantizer(
                float_graph,
                True,  # per channel
                reduce_range,
                QuantType[weight],
                QuantType[activation],
                TensorsData(CalibrationMethod.MinMax, bounds),
                [],
                list(ranges.excluded),
                sorted({*QDQRegistry, *QLinearOpsRegistry}),
                {"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()  # it appends nodes, and ONNX wants them in order
            target.write_bytes(compact(quantizer.model.model, known).SerializeToString())
        except (ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
            raise LowerError(
                f"ONNX Runtime's quantizer failed: {type(error).__name__}: {error}",
                artifact=source,
                mend="exclude the node it names, or leave int8 out for this backend",
            ) from error

    def read_signature(self, file: Path) -> Signature:
        """Read the ONNX graph's own inputs and outputs."""
        from torchopt2edge.quantize.prepare import load, signature_of

        return signature_of(load(file), file)

    def read_scheme(self, file: Path) -> str:
        """Read off the file whether it computes in integers."""
        from torchopt2edge.quantize.prepare import QUANTIZED_OPS, load, nodes

        ops = {node.op_type for node in nodes(load(file).graph)}
        return "int8" if ops & QUANTIZED_OPS else "fp32"

    def open(self, file: Path, signature: Signature, threads: int) -> FileSession:
        """Open with pinned threads and no spinning: a session that waits must cost nothing.

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
        return FileSession(
            signature, lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))
        )

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""
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
    if str(facts.get("arch", "")).startswith(("aarch64", "arm")):
        return "arm64"
    return "x86-vnni" if any("vnni" in flag for flag in facts.get("cpu_flags", ())) else "x86"


def _modern(source: Path) -> Any:
    """Load a graph at an opset that has per-axis DequantizeLinear (13)."""
    import onnx

    proto = onnx.load(source)
    opset = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if opset >= 13:
        return proto
    return onnx.shape_inference.infer_shapes(onnx.version_converter.convert_version(proto, 13))


def _count(file: Path) -> Facts:
    import onnx

    from torchopt2edge.quantize.prepare import nodes

    proto = onnx.load(file)
    return {"ops": dict(Counter(node.op_type for node in nodes(proto.graph)).most_common())}
