"""LiteRT (TFLite) on CPU: the float file from the sealed converter, int8 by ai-edge-quantizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge import converter
from torchopt2edge.backends.file_session import Array, FileSession, to_file
from torchopt2edge.backends.litert.flatbuffer import Op, input_places, output_places, read_graph
from torchopt2edge.backends.litert.float_ops import floats_of
from torchopt2edge.backends.litert.inspect import (
    check_label,
    facts_of,
    interpreter_of,
    left_in_float,
    scheme_of,
    unrun,
)
from torchopt2edge.backends.litert.recipe import RECIPES, alive, numbers, quantize, recipe_of
from torchopt2edge.backends.litert.tensor_map import Transfer, transfer
from torchopt2edge.errors import LowerError
from torchopt2edge.identity import Files
from torchopt2edge.interfaces import Sources
from torchopt2edge.samples.calibration_set import Samples, as_fed
from torchopt2edge.store import key_of, work_of
from torchopt2edge.types import Artifact, Facts, Scheme, Signature, TensorSpec

if TYPE_CHECKING:
    from torchopt2edge.interfaces import ArtifactStore

INT16_WARNING = (
    "int16x8 has only reference kernels on a CPU and is many times slower than float there: "
    "it is meant for an NPU"
)
_NAMED = ("python", "onnx2tf", "tensorflow")


@dataclass(frozen=True)
class LiteRT:
    """The LiteRT backend.

    ``python`` points at an interpreter with onnx2tf in place of the sealed environment;
    ``timeout_s`` bounds one conversion.
    """

    python: str | None = field(default=None, metadata={"identity": False})  # its packages count
    timeout_s: float = field(default=900.0, metadata={"identity": False})

    name = "litert"
    schemes = ("fp32", *RECIPES)
    tools = ("ai-edge-litert", "ai-edge-quantizer")
    runtime_module = "ai_edge_litert.interpreter"
    library = "ai_edge_litert/_pywrap_litert_interpreter_wrapper*.so"
    suffix = ".tflite"

    def for_target(self, facts: Facts) -> LiteRT:
        """The same file serves every processor."""
        return self

    def base(self, graph: Artifact, store: ArtifactStore) -> Artifact:
        """Convert the float ONNX to a float .tflite, once."""
        environment = converter.find(self.python)
        code = [_write_base, Files(converter.CHILD)]
        key = key_of(code, {"onnx": graph.digest}, converter.pins(environment))
        write = partial(_write_base, graph.path, environment, self.timeout_s)
        return store.make(key, "tflite", write)[0]

    def lower(self, sources: Sources, scheme: Scheme, out: Path) -> Facts:
        """Write ``model.tflite`` and ``signature.json``.

        Raises:
            LowerError: the quantizer fails on this graph, or its file is not what the scheme says.
        """
        source = sources.base.path / str(sources.base.facts["file"])
        target = out / "model.tflite"
        float_graph = read_graph(source)
        carried = _carry(sources, scheme, source) if scheme.needs_ranges else None
        parts: Mapping[str, tuple[Op, ...]] = {}
        kept: tuple[Op, ...] = ()
        if carried is not None and sources.ranges is not None:
            excluded = sources.ranges.excluded
            floats = floats_of(sources.model, float_graph, carried.matched, excluded)
            parts, kept, carried = floats.excluded, floats.ops, floats.rounded(carried)
        if scheme.name == "fp32":
            shutil.copyfile(source, target)
        else:
            bounds = {} if carried is None else carried.bounds
            given = numbers(float_graph, bounds, scheme.name)
            quantize(source, recipe_of(scheme.name, kept), given, target)
        graph = read_graph(target)
        found = facts_of(graph, target)
        check_label(graph, scheme, found, target)
        _write_signature(self._as_held(signature_of(sources.base.path), target), out)
        return {
            "file": target.name,
            **{key: sources.base.facts[key] for key in ("parity_db", "converter")},
            **found,
            **_range_facts(sources, carried),
            **_exclusion(scheme, parts, left_in_float(graph, parts)),
        }

    def _as_held(self, signature: Signature, file: Path) -> Signature:
        """Add how the file itself holds what is integer in it."""
        own = self.read_signature(file)
        held = {spec.file_name: spec for spec in (*own.inputs, *own.outputs)}

        def joined(spec: TensorSpec) -> TensorSpec:
            there = held[spec.file_name]
            return replace(
                spec,
                file_dtype=there.file_dtype,
                scale=there.scale,
                zero_point=there.zero_point,
            )

        return Signature(
            tuple(map(joined, signature.inputs)), tuple(map(joined, signature.outputs))
        )

    def parting(self, graph: Artifact, base: Artifact, samples: Path) -> str:
        """Say where the float file parts from the graph on the first sample; "" if it does not."""
        import onnx

        from torchopt2edge.backends.litert.parting import first_parting

        kept = Samples(samples)
        (sample,) = kept.batches(1, 1)
        found = first_parting(
            onnx.load(graph.path / "model.onnx"),
            base.path / str(base.facts["file"]),
            as_fed(sample, kept.whole),
            _laid_out(signature_of(base.path), sample),
        )
        return "" if found is None else str(found)

    def read_signature(self, file: Path) -> Signature:
        """Read the .tflite's own inputs and outputs, in its own layout."""
        interpreter = unrun(file)
        inputs = {d["index"]: d for d in interpreter.get_input_details()}
        outputs = {d["index"]: d for d in interpreter.get_output_details()}
        return Signature(
            tuple(_spec(k, inputs[i]) for k, i in input_places(interpreter).items()),
            tuple(_spec(k, outputs[i]) for k, i in output_places(interpreter).items()),
        )

    def read_scheme(self, file: Path) -> str:
        """Read off the file what it computes in and stores; a float one is ``fp32``."""
        return scheme_of(read_graph(file))

    def read_facts(self, file: Path) -> Facts:
        """Count what the file computes in, and what XNNPACK takes of it."""
        return facts_of(read_graph(file), file)

    def open(self, file: Path, signature: Signature, threads: int) -> FileSession:
        """Open with XNNPACK, as LiteRT does by default, and pinned threads.

        Raises:
            LowerError: LiteRT cannot load the file.
        """
        interpreter = interpreter_of(file, threads)
        inputs, outputs = input_places(interpreter), output_places(interpreter)

        def execute(arrays: Mapping[str, Array]) -> dict[str, Array]:
            for name, array in arrays.items():
                interpreter.set_tensor(inputs[name], array if array.ndim else array.reshape(1))
            interpreter.invoke()
            return {name: interpreter.get_tensor(place) for name, place in outputs.items()}

        return FileSession(signature, execute)

    def profile(
        self, file: Path, threads: int, arrays: Mapping[str, Array], runs: int
    ) -> list[Facts]:
        """Return what each operator takes (`litert.profile.profile`)."""
        from torchopt2edge.backends.litert.profile import profile

        return profile(file, threads, arrays, runs)

    def receipt(self) -> Facts:
        """Name the runtime, its version and the options that are pinned."""
        import ai_edge_litert

        version = getattr(ai_edge_litert, "__version__", None)
        if version is None:
            from importlib.metadata import version as installed

            version = installed("ai-edge-litert")
        return {"runtime": "litert", "runtime_version": version, "delegate": "XNNPACK"}


def _write_base(
    graph: Path, environment: converter.Environment, timeout_s: float, out: Path
) -> Facts:
    made = converter.convert(
        graph / "model.onnx",
        out / "model.tflite",
        env=environment,
        timeout_s=timeout_s,
        min_parity_db=None,  # judged on real samples, before anything is lowered from it
        log=work_of(out) / "converter.log",  # the error names it, and `out` goes then
    )
    shutil.move(made.log, out)
    _write_signature(_signature(graph / "signature.json", made), out)
    return {
        "file": made.path.name,
        "parity_db": round(made.parity_db, 1),
        "seconds": round(made.seconds, 2),
        "converter": {k: v for k, v in made.versions.items() if k in _NAMED},
    }


def _carry(sources: Sources, scheme: Scheme, source: Path) -> Transfer:
    """Carry the shared ranges over to this file's tensors, each with steps of its own."""
    if sources.ranges is None or sources.samples is None:
        raise LowerError(f"{scheme.name} takes activation ranges", hint="pass calibration data")
    carried = transfer(
        sources.model,
        source,
        sources.ranges,
        Samples(sources.samples),
        partial(_laid_out, signature_of(sources.base.path)),
    )
    return replace(carried, bounds={name: alive(*pair) for name, pair in carried.bounds.items()})


def _laid_out(signature: Signature, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Bring calibration samples, which are preprocessed, into the file's layout."""
    return {spec.file_name: to_file(arrays[spec.name], spec) for spec in signature.inputs}


def _range_facts(sources: Sources, carried: Transfer | None) -> Facts:
    if carried is None or sources.ranges is None:
        return {}
    return {"ranges_origin": sources.ranges.origin, **carried.facts}


def _exclusion(scheme: Scheme, parts: Mapping[str, tuple[Op, ...]], stayed: list[str]) -> Facts:
    """Say which nodes really are in float, and warn of what is not as it was asked."""
    warnings = [INT16_WARNING] if scheme.name == "int16x8" else []
    warnings += [
        f"the excluded node {name!r} is not in float: no operator of its own was found in the "
        ".tflite"
        for name in parts
        if name not in stayed
    ]
    return {"excluded": stayed, "notes": warnings}


def signature_of(folder: Path) -> Signature:
    """Read the signature in the folder of a base."""
    return Signature.from_json(json.loads((folder / "signature.json").read_text()))


def _signature(source: Path, made: converter.Conversion) -> Signature:
    """Join the source's names and dtypes with where the converted file keeps each tensor."""
    given = Signature.from_json(json.loads(source.read_text()))
    places = {place.name: place for place in (*made.inputs, *made.outputs)}

    def joined(spec: TensorSpec) -> TensorSpec:
        place = places[spec.file_name]
        shape = tuple(1 if at == 0 and d == -1 else d for at, d in enumerate(spec.shape))
        place = replace(
            place,
            name=spec.name,
            dtype=spec.dtype,
            preprocess=spec.preprocess,
            whole=spec.whole,
        )
        return replace(place, shape=shape)

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


def _write_signature(signature: Signature, out: Path) -> None:
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
