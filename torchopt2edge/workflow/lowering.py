"""Lower a graph to the files of every backend and scheme, each once.

The failure of one candidate is a row, not an end.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Protocol

from torchopt2edge.bench.file_size import PACKED, packed_mb
from torchopt2edge.errors import EdgeError, LowerError, SchemeError, VerifyError, contained
from torchopt2edge.interfaces import Backend, Sources
from torchopt2edge.store import Store, key_of, versions
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Measurement, Scheme
from torchopt2edge.workflow.calibration import Calibration, signature_in
from torchopt2edge.workflow.progress import Progress


class Pending(Protocol):
    """What is being made."""

    def result(self) -> Artifact:
        """Wait for it, and return it or raise what it failed with."""


Base = tuple[Backend, Pending]
"""A backend and what it makes once per model, begun."""


@dataclass(frozen=True)
class Checked:
    """What is being made, and is then checked by whoever waits for it."""

    made: Pending
    check: Callable[[Artifact], None]

    def result(self) -> Artifact:
        """Wait for it, check it, and return it or raise what either failed with."""
        artifact = self.made.result()
        self.check(artifact)
        return artifact


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
    calibration: Calibration | LowerError | None,
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
            with (
                progress.task(f"{candidate_id(group, backend.name, 'base')}"),
                contained(f"{backend.name} cannot take the float model", LowerError),
            ):
                base = future.result()
        except EdgeError as error:
            yield from (failed(group, backend.name, scheme, error) for scheme in wanted)
            continue
        sources = Sources(graph, base)
        calibrated = cache(partial(_calibrated, sources, backend, calibration, store))
        for scheme in wanted:
            try:
                name = candidate_id(group, backend.name, scheme)
                with (
                    progress.task(name),
                    contained("it cannot be made", LowerError, artifact=name),
                ):
                    made = _lower(sources, calibrated, group, backend, scheme, calibration, store)
            except EdgeError as error:
                yield failed(group, backend.name, scheme, error)
            else:
                yield made


def float_candidate(graph: Artifact, base: Artifact, backend: Backend, store: Store) -> Candidate:
    """Return the float file of a backend as a candidate."""
    sources = Sources(graph, base)
    return _lower(sources, lambda: sources, "", backend, "fp32", None, store)


def _lower(
    sources: Sources,
    calibrated: Callable[[], Sources],
    group: str,
    backend: Backend,
    scheme_name: str,
    calibration: Calibration | LowerError | None,
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
        if isinstance(calibration, LowerError):
            raise calibration
        sources = calibrated()
        ranges = json.dumps(calibration.ranges.to_json())
        inputs = {"graph": sources.graph.digest, "base": sources.base.digest}
        inputs["samples"] = calibration.samples.digest
        inputs["ranges"] = hashlib.sha256(ranges.encode()).hexdigest()
    key = key_of([_write_lowered, backend.lower, scheme], inputs, versions(backend.tools))
    write = partial(_write_lowered, backend, sources, scheme)
    return candidate(store.make(key, "lowered", write)[0], group, backend, scheme_name)


def _write_lowered(backend: Backend, sources: Sources, scheme: Scheme, out: Path) -> Facts:
    facts = backend.lower(sources, scheme, out)
    return {**facts, PACKED: packed_mb(out / str(facts["file"]))}


def _calibrated(
    sources: Sources, backend: Backend, calibration: Calibration | LowerError | None, store: Store
) -> Sources:
    """Return what schemes with ranges are lowered from."""
    if calibration is None or isinstance(calibration, LowerError):
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
