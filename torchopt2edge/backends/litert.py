"""LiteRT (TFLite) on CPU: the float file from the sealed converter, int8 by ai-edge-quantizer."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge import converter
from torchopt2edge.backends.quiet import quiet
from torchopt2edge.backends.session import Array, FileSession
from torchopt2edge.errors import LowerError
from torchopt2edge.protocols import Sources
from torchopt2edge.quantize.tflite import input_places, integer_ops, output_places, read_graph
from torchopt2edge.store import key_of
from torchopt2edge.types import Artifact, Facts, Scheme, Signature, TensorSpec

if TYPE_CHECKING:
    from torchopt2edge.store import Store

# XNNPACK has no integer kernel for these: in int8 each would leave the delegate (MobileNetV3-small
# fell apart into 28 partitions and ran 2.5 times slower than with them in float).
FLOAT_OPS = ("HARD_SWISH",)
_NAMED = ("python", "onnx2tf", "tensorflow")


@dataclass(frozen=True)
class LiteRT:
    """The LiteRT backend.

    ``python`` points at an interpreter with onnx2tf in place of the sealed environment;
    ``timeout_s`` bounds one conversion.
    """

    python: str | None = None
    timeout_s: float = field(default=900.0, metadata={"identity": False})

    name = "litert"
    schemes = ("fp32", "int8")
    tools = ("ai-edge-litert", "ai-edge-quantizer")
    runtime_module = "ai_edge_litert.interpreter"
    suffix = ".tflite"

    def for_target(self, facts: Facts) -> LiteRT:
        """The same file serves every processor."""
        return self

    def base(self, graph: Artifact, store: Store) -> Artifact:
        """Convert the float ONNX to a float .tflite, once."""
        environment = converter.find(self.python)

        def make(out: Path) -> Facts:
            made = converter.convert(
                graph.path / "model.onnx",
                out / "model.tflite",
                env=environment,
                timeout_s=self.timeout_s,
            )
            signature = _signature(graph.path / "signature.json", made)
            _write_signature(signature, out)
            return {
                "file": made.path.name,
                "parity_db": round(made.parity_db, 1),
                "seconds": round(made.seconds, 2),
                "converter": {k: v for k, v in made.versions.items() if k in _NAMED},
            }

        folder = environment.folder
        pins = converter.versions(environment) if folder is None else {"converter": folder.name}
        return store.make(key_of(converter.convert, {"onnx": graph.digest}, pins), "tflite", make)[
            0
        ]

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write ``model.tflite`` and ``signature.json``.

        Raises:
            LowerError: the quantizer fails on this graph.
        """
        source = sources.base.path / str(sources.base.facts["file"])
        target = out / "model.tflite"
        shutil.copyfile(sources.base.path / "signature.json", out / "signature.json")
        converted = {key: sources.base.facts[key] for key in ("parity_db", "converter")}
        if scheme.name == "fp32":
            shutil.copyfile(source, target)
            return {"file": target.name, **converted, **_count(target)}
        if sources.ranges is None or sources.samples is None:
            raise LowerError(f"{scheme.name} takes activation ranges", mend="pass calibration data")
        bounds, facts = self._ranges(source, sources)
        _quantize(source, bounds, target)
        return {"file": target.name, **converted, **facts, **_count(target)}

    def _ranges(
        self, source: Path, sources: Sources
    ) -> tuple[dict[str, tuple[float, float]], Facts]:
        """Carry the shared ranges over to this file's tensors."""
        from torchopt2edge.quantize.samples import Samples
        from torchopt2edge.quantize.transfer import transfer

        assert sources.ranges is not None
        assert sources.samples is not None
        kept = json.loads((sources.base.path / "signature.json").read_text())
        signature = Signature.from_json(kept)
        layout = FileSession(signature, dict)
        carried = transfer(
            sources.graph.path / "model.onnx",
            source,
            sources.ranges,
            Samples(sources.samples),
            layout.prepare,
        )
        return carried.bounds, carried.facts

    def read_signature(self, file: Path) -> Signature:
        """Read the .tflite's own inputs and outputs, in its own layout."""
        interpreter = _interpreter(file, 1)
        inputs = {d["index"]: d for d in interpreter.get_input_details()}
        outputs = {d["index"]: d for d in interpreter.get_output_details()}
        return Signature(
            tuple(_spec(k, inputs[i]) for k, i in input_places(interpreter).items()),
            tuple(_spec(k, outputs[i]) for k, i in output_places(interpreter).items()),
        )

    def read_scheme(self, file: Path) -> str:
        """Read off the file whether it computes in integers."""
        return "int8" if integer_ops(file) else "fp32"

    def open(self, file: Path, signature: Signature, threads: int) -> FileSession:
        """Open with XNNPACK, as LiteRT does by default, and pinned threads.

        Raises:
            LowerError: LiteRT cannot load the file.
        """
        interpreter = _interpreter(file, threads)
        inputs, outputs = input_places(interpreter), output_places(interpreter)

        def execute(arrays: Mapping[str, Array]) -> dict[str, Array]:
            for name, array in arrays.items():
                interpreter.set_tensor(inputs[name], array)
            interpreter.invoke()
            return {name: interpreter.get_tensor(place) for name, place in outputs.items()}

        return FileSession(signature, execute)

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""
        import ai_edge_litert

        version = getattr(ai_edge_litert, "__version__", None)
        if version is None:
            from importlib.metadata import version as installed

            version = installed("ai-edge-litert")
        return {"runtime": "litert", "runtime_version": version, "delegate": "XNNPACK"}


def _interpreter(file: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(file), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise LowerError(f"LiteRT cannot open this file: {error}", artifact=file) from error
    return interpreter


def _quantize(source: Path, bounds: Mapping[str, tuple[float, float]], target: Path) -> None:
    """Make a static int8 file with float inputs and outputs from the given ranges."""
    import numpy as np
    from ai_edge_quantizer import quantizer, recipe

    keep_float: list[dict[str, Any]] = [
        {"regex": ".*", "operation": op, "algorithm_key": "no_quantize", "op_config": {}}
        for op in ("INPUT", "OUTPUT", *FLOAT_OPS)
    ]
    calibration = {
        name: {"min": np.float32(low).reshape(1), "max": np.float32(high).reshape(1)}
        for name, (low, high) in bounds.items()
    }
    how = [*recipe.static_wi8_ai8(), *keep_float]
    try:
        with quiet():
            made = quantizer.Quantizer(str(source), how).quantize(
                calibration, enable_progress_bar=False, enable_progress_report=False
            )
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
        raise LowerError(
            f"ai-edge-quantizer failed: {type(error).__name__}: {error}",
            artifact=source,
            mend="leave int8 out for this backend, or report the net with this message",
        ) from error
    target.write_bytes(bytes(made.quantized_model))


def _signature(source: Path, made: converter.Conversion) -> Signature:
    """Join the source's names and dtypes with where the converted file keeps each tensor."""
    given = Signature.from_json(json.loads(source.read_text()))
    places = {place.name: place for place in (*made.inputs, *made.outputs)}

    def joined(spec: TensorSpec) -> TensorSpec:
        place = places[spec.file_name]
        shape = tuple(1 if at == 0 and d == -1 else d for at, d in enumerate(spec.shape))
        return replace(place, name=spec.name, shape=shape, dtype=spec.dtype)

    return Signature(tuple(map(joined, given.inputs)), tuple(map(joined, given.outputs)))


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    """Describe a tensor as its file holds it; integer ones are given and taken in real units."""
    import numpy as np

    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"]).name
    shape = tuple(int(size) for size in detail["shape"])
    if scale:
        return TensorSpec(name, shape, "float32", name, dtype, None, scale, zero_point)
    return TensorSpec(name, shape, dtype, name, dtype)


def _count(file: Path) -> Facts:
    return {"ops": dict(Counter(op.kind for op in read_graph(file).ops).most_common())}


def _write_signature(signature: Signature, out: Path) -> None:
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
