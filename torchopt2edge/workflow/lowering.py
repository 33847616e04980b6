"""Turn models into candidates over the store: stages, the shared graph, ranges, files.

Everything here is made once and found again; a failure of one candidate is a row, not an end.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.bench.file_size import PACKED, packed_mb
from torchopt2edge.errors import ConfigError, EdgeError, ExportError, SchemeError, VerifyError
from torchopt2edge.interfaces import Backend, Sources, Stage
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.store import Store, key_of, versions
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Measurement, Ranges
from torchopt2edge.workflow.calibration import GRAPH_TOOLS, Calibration, link, signature_in
from torchopt2edge.workflow.progress import Progress

if TYPE_CHECKING:
    from onnx import ModelProto

    Array = np.ndarray[Any, Any]

Base = tuple[Backend, Future[Artifact]]
"""A backend and what it makes once per model, begun."""

STAGE_TOOLS = (
    *("torch", "torchvision", "torchao", "lightning", "torch-pruning", "timm"),
    *("onnx", "onnxscript"),
)
REFERENCE_SAMPLES = 32


@dataclass(frozen=True)
class Made:
    """What a stage made, whether the store had it, and the seconds it took now."""

    artifact: Artifact
    cached: bool
    seconds: float


def run_stages(stages: Mapping[str, Stage], store: Store, progress: Progress) -> dict[str, Made]:
    """Run the stages in order, each on what those before it made.

    Raises:
        ConfigError: a stage needs one that is not before it.
    """
    made: dict[str, Made] = {}
    for name, stage in stages.items():
        inputs = {role: _before(name, source, made) for role, source in stage.needs.items()}
        digests = {role: artifact.digest for role, artifact in inputs.items()}
        key = key_of(stage, digests, versions(STAGE_TOOLS))
        started = time.monotonic()
        with progress.task(name):
            artifact, cached = store.make(key, stage.kind, partial(stage, inputs))
        made[name] = Made(artifact, cached, time.monotonic() - started)
    return made


def _before(name: str, source: str, made: Mapping[str, Made]) -> Artifact:
    if source not in made:
        raise ConfigError(
            f"the stage {name!r} needs a stage {source!r} before it; there is {list(made)}",
            hint=f"put {source} before {name} in stage=[…]",
        )
    return made[source].artifact


def share_graph(
    onnx_file: Path, digest: str, store: Store, preprocess: Preprocess | None = None
) -> Artifact:
    """Make the float graph that every backend shares, with the PyTorch program if there is one.

    ``onnx_file`` may have a ``model.pt2`` beside it, as an export has, and a ``ranges.json`` of
    what training learned; a quantized file is split into its float graph and those ranges.
    ``preprocess`` goes into the signature: what makes the input of a raw image.
    """
    import onnx

    from torchopt2edge.quantize.graph import prepare
    from torchopt2edge.quantize.graph.canonicalize import canonicalize
    from torchopt2edge.quantize.qat_ranges import carry
    from torchopt2edge.samples.raw_images import with_preprocess

    def make(out: Path) -> Facts:
        proto, ranges = _learned(onnx_file)
        proto = prepare.prepared(proto, onnx_file)
        onnx.save(proto, out / "model.onnx")
        signature = prepare.signature_of(proto, onnx_file)
        if preprocess is not None:
            signature = with_preprocess(signature, preprocess)
        (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
        if ranges is not None:
            ranges = carry(ranges, proto)
            (out / "ranges.json").write_text(json.dumps(ranges.to_json()))
        program = onnx_file.with_name("model.pt2")
        if program.is_file():
            link(program, out / "model.pt2")
        return {"inputs": [spec.name for spec in signature.inputs]}

    code = [prepare.prepare, canonicalize, preprocess]
    inputs = {"onnx": digest}
    beside = onnx_file.with_name("ranges.json")
    if beside.is_file():
        inputs["ranges"] = file_digest(beside)
    key = key_of(code, inputs, versions(GRAPH_TOOLS))
    return store.make(key, "graph", make)[0]


def _learned(onnx_file: Path) -> tuple[ModelProto, Ranges | None]:
    """Return the float graph of a file and the ranges that training learned.

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


def reference_outputs(graph: Artifact, samples: Samples, digest: str, store: Store) -> Artifact:
    """Run the reference over the first samples: PyTorch, or the ONNX with no rewriting.

    The artifact holds ``inputs.npz`` and ``outputs.npz``, in source names and layout.

    Raises:
        VerifyError: the model itself outputs NaN or infinity.
    """
    from torchopt2edge.backends.ort.backend import Ort
    from torchopt2edge.backends.torch_cpu import TorchCpu
    from torchopt2edge.evaluation.parity import check_finite

    program = graph.path / "model.pt2"
    backend: Backend = TorchCpu() if program.is_file() else Ort(optimize=False)
    file = program if program.is_file() else graph.path / "model.onnx"

    def make(out: Path) -> Facts:
        session = backend.open(file, signature_in(graph.path), os.cpu_count() or 1)
        batches = list(samples.batches(1, REFERENCE_SAMPLES))
        results = [session(batch) for batch in batches]
        inputs = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        outputs = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
        check_finite(outputs)
        _save_arrays(out / "inputs.npz", inputs)
        _save_arrays(out / "outputs.npz", outputs)
        return {"count": len(batches), **backend.receipt()}

    inputs = {"graph": graph.digest, "samples": digest}
    key = key_of(backend, inputs, versions((*backend.tools, "numpy")))
    return store.make(key, "reference", make)[0]


def _save_arrays(file: Path, arrays: Mapping[str, Array]) -> None:
    """Save arrays by position: a tensor may have any name."""
    listed = {f"a{index}": array for index, array in enumerate(arrays.values())}
    np.savez(file, names=np.array(list(arrays)), **listed)  # type: ignore[arg-type]


def load_arrays(file: Path) -> dict[str, Array]:
    """Read what `reference_outputs` keeps."""
    with np.load(file, allow_pickle=False) as kept:
        return {str(name): kept[f"a{index}"] for index, name in enumerate(kept["names"])}


def start_bases(graph: Artifact, backends: Sequence[Backend], store: Store) -> list[Base]:
    """Begin what each backend makes once per model; a conversion waits for its child meanwhile."""
    return [(backend, ahead(partial(backend.base, graph, store))) for backend in backends]


def ahead(make: Callable[[], Artifact]) -> Future[Artifact]:
    """Run in a daemon thread: an interrupt does not wait for it, and its child dies with us."""
    future: Future[Artifact] = Future()

    def work() -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # whatever it is belongs to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def lower_all(
    graph: Artifact,
    group: str,
    bases: Sequence[Base],
    schemes: Sequence[str],
    calibration: Calibration | None,
    store: Store,
    progress: Progress,
) -> Iterator[Candidate | Measurement]:
    """Lower the graph to every backend and scheme, one by one; what fails is a row with its error.

    ``bases`` come from `start_bases`; the file of a backend that is ready is given before the
    next one is waited for.
    """
    for backend, future in bases:
        wanted = ["fp32"] if backend.name == "torch" else schemes
        try:
            with progress.task(f"{candidate_id(group, backend.name, 'base')}"):
                base = future.result()
        except EdgeError as error:
            yield from (failed(group, backend.name, scheme, error) for scheme in wanted)
            continue
        sources = Sources(graph, base)
        calibrated = cache(partial(_calibrated, sources, backend, calibration, store))
        for scheme in wanted:
            try:
                with progress.task(candidate_id(group, backend.name, scheme)):
                    made = _lower(sources, calibrated, group, backend, scheme, calibration, store)
            except EdgeError as error:
                yield failed(group, backend.name, scheme, error)
            else:
                yield made


def _lower(
    sources: Sources,
    calibrated: Callable[[], Sources],
    group: str,
    backend: Backend,
    scheme_name: str,
    calibration: Calibration | None,
    store: Store,
) -> Candidate:
    if scheme_name not in backend.schemes or scheme_name not in SCHEMES:
        raise SchemeError(
            f"the backend {backend.name} does not take the scheme {scheme_name!r}",
            hint=f"schemes=[{','.join(backend.schemes)}]",
        )
    scheme = SCHEMES[scheme_name]
    inputs = {"graph": sources.graph.digest, "base": sources.base.digest}
    if scheme.needs_ranges:
        if calibration is None:
            raise SchemeError(
                f"{scheme_name} takes calibration data", hint="pass calibration=, or schemes=[fp32]"
            )
        sources = calibrated()
        ranges = json.dumps(calibration.ranges.to_json())
        inputs = {"graph": sources.graph.digest, "base": sources.base.digest}
        inputs["samples"] = calibration.samples.digest
        inputs["ranges"] = hashlib.sha256(ranges.encode()).hexdigest()
    key = key_of([backend, scheme, write_samples], inputs, versions(backend.tools))

    def make(out: Path) -> Facts:
        facts = backend.lower(sources, scheme, out)
        return {**facts, PACKED: packed_mb(out / str(facts["file"]))}

    artifact, _ = store.make(key, "lowered", make)
    return candidate(artifact, group, backend, scheme_name)


def _calibrated(
    sources: Sources, backend: Backend, calibration: Calibration | None, store: Store
) -> Sources:
    """Return what schemes with ranges are lowered from."""
    if calibration is None:
        return sources
    graph = calibration.graph
    base = sources.base if graph == sources.graph else backend.base(graph, store)
    return Sources(graph, base, calibration.ranges, calibration.samples.path)


def candidate(artifact: Artifact, group: str, backend: Backend, scheme: str) -> Candidate:
    """Describe a lowered artifact as a candidate."""
    cls = type(backend)
    return Candidate(
        id=candidate_id(group, backend.name, scheme),
        backend=backend.name,
        scheme=scheme,
        file=artifact.path / str(artifact.facts["file"]),
        signature=signature_in(artifact.path),
        digest=artifact.digest,
        facts={
            **artifact.facts,
            "target": f"{cls.__module__}.{cls.__qualname__}",
            "options": options(backend),
            "tools": list(backend.tools),
        },
        group=group,
    )


def options(backend: Backend) -> Facts:
    """Return the backend's fields as plain data: the child builds the same object of them."""
    return {item.name: getattr(backend, item.name) for item in fields(backend)}  # type: ignore[arg-type]


def candidate_id(group: str, backend: str, scheme: str) -> str:
    """Return the id that holds backend and scheme, behind the model's name if there is one."""
    return "-".join(part for part in (group, backend, scheme) if part)


def failed(group: str, backend: str, scheme: str, error: EdgeError | VerifyError) -> Measurement:
    """Return the row of a candidate that could not be made or checked."""
    return Measurement(
        candidate_id(group, backend, scheme),
        backend,
        scheme,
        facts={"group": group},
        err=str(error),
    )
