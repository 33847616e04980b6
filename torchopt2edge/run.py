"""One comparison: lower, verify, evaluate, time in turns, decide, report."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge import evaluate as scoring
from torchopt2edge import pipeline, report, verdict, verify
from torchopt2edge.bench import harness
from torchopt2edge.bench.session import open_child
from torchopt2edge.errors import ConfigError, EdgeError, VerifyError
from torchopt2edge.progress import Progress
from torchopt2edge.protocols import Backend, Device, Session
from torchopt2edge.quantize.samples import Samples, check_disjoint
from torchopt2edge.store import Store, key_of, versions
from torchopt2edge.types import (
    SCHEMES,
    Artifact,
    Candidate,
    Constraints,
    Facts,
    Measurement,
    Verdict,
)

if TYPE_CHECKING:
    from torchopt2edge.bench.protocol import Protocol

RECHECKED = 4


@dataclass(frozen=True)
class Plan:
    """How a comparison is made, every name resolved."""

    backends: tuple[Backend, ...]
    schemes: tuple[str, ...]
    device: Device
    protocol: Protocol
    out: Path
    constraints: Constraints
    baseline: bool
    store: Store
    progress: Progress
    title: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One model of the comparison: its name in candidate ids ("" when alone), its graph."""

    group: str
    graph: Artifact
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Labelled:
    """A labelled loader whose content has an identity, so that a score can be kept."""

    loader: Iterable[Any]
    fingerprint: str

    def __iter__(self) -> Iterator[Any]:
        """Walk the loader."""
        return iter(self.loader)


def compare(
    entries: Sequence[Entry],
    samples: Artifact,
    evaluate: Any,
    plan: Plan,
    history: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Measurement], Verdict]:
    """Make every candidate, measure those that hold, decide, and write the run's folder."""
    plan.out.mkdir(parents=True, exist_ok=True)
    _check_leak(entries[0].graph, samples, evaluate)
    ready: list[Candidate] = []
    scores: dict[str, scoring.Score | None] = {}
    broken: list[Measurement] = []
    probes: dict[str, Artifact] = {}
    for number, entry in enumerate(entries):
        first = plan.baseline and number == 0  # one PyTorch row: the reference
        bases = pipeline.start_bases(entry.graph, _backends(entry, plan, first), plan.store)
        probes[entry.group] = pipeline.reference_outputs(
            entry.graph, Samples(samples.path), samples.digest, plan.store
        )
        for made in _lower(entry, samples, bases, plan):
            if isinstance(made, Measurement):
                broken.append(made)
                continue
            found = replace(made, facts={**made.facts, **entry.facts})
            try:
                with plan.progress.task(f"{found.id}: verify, evaluate"):
                    parity, score = _examine(found, probes[entry.group], evaluate, plan)
            except EdgeError as error:
                broken.append(pipeline.failed(entry.group, found.backend, found.scheme, error))
                continue
            ready.append(replace(found, facts={**found.facts, "metrics": parity}))
            scores[found.id] = score
    rows = [*_measure(ready, scores, probes, plan), *broken]
    return finish(rows, plan, history)


def finish(
    rows: list[Measurement], plan: Plan, history: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[Measurement], Verdict]:
    """Decide, write the report, and return both."""
    reference = reference_row(rows)
    rows = [against(row, rows, reference) for row in rows]
    decided = verdict.decide(rows, plan.constraints, reference)
    environment = {
        "device": plan.device.facts(),
        "protocol": plan.protocol.name,
        "versions": versions(_tools(plan)),
        **plan.environment,
    }
    report.write(plan.out, rows, decided, title=plan.title, stages=history, environment=environment)
    _link_files(rows, plan.out)
    return rows, decided


def against(row: Measurement, rows: Sequence[Measurement], reference: str | None) -> Measurement:
    """Mark the reference row; give the others their loss on the very samples it was scored on."""
    if row.candidate == reference:
        return replace(row, facts={**row.facts, "reference": True})
    base = next((one for one in rows if one.candidate == reference), None)
    if base is None or "correct" not in base.facts or "correct" not in row.facts:
        return row
    drop = scoring.paired_drop(base.facts["correct"], row.facts["correct"])
    return replace(row, metrics={**row.metrics, **drop})


def reference_row(rows: Sequence[Measurement]) -> str | None:
    """Name the row that accuracy is held against: the first PyTorch row, else the first fp32."""
    measured = [row for row in rows if row.err is None]
    order = sorted(measured, key=lambda row: (row.backend != "torch", row.scheme != "fp32"))
    good = [row for row in order if row.scheme == "fp32"]
    return good[0].candidate if good else None


def resolve_backends(wanted: Sequence[str | Backend]) -> tuple[Backend, ...]:
    """Turn names into backends; an object is taken as it is.

    Raises:
        ConfigError: there is no such backend; lists those there are.
    """
    return tuple(_backend(one) if isinstance(one, str) else one for one in wanted)


def backend_names() -> list[str]:
    """Name the backends that have a yaml in ``conf/backend``."""
    folder = resources.files("torchopt2edge.conf") / "backend"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir())


def _backend(name: str) -> Backend:
    import yaml

    known = backend_names()
    if name not in known:
        raise ConfigError(f"there is no backend {name!r}", mend=f"one of {', '.join(known)}")
    file = resources.files("torchopt2edge.conf") / "backend" / f"{name}.yaml"
    node = yaml.safe_load(file.read_text())[name]
    module, _, cls = node.pop("_target_").rpartition(".")
    # What only a composed config can resolve is left to the dataclass's own default.
    plain = {key: value for key, value in node.items() if not str(value).startswith("${")}
    made: Backend = getattr(importlib.import_module(module), cls)(**plain)
    return made


def _backends(entry: Entry, plan: Plan, baseline: bool) -> list[Backend]:
    """Return the plan's backends, behind PyTorch's own where it is asked for and there is one."""
    from torchopt2edge.backends.torch_cpu import TorchCpu

    if baseline and (entry.graph.path / "model.pt2").is_file():
        return [TorchCpu(), *(b for b in plan.backends if b.name != "torch")]
    return list(plan.backends)


def _lower(
    entry: Entry, samples: Artifact, bases: Sequence[pipeline.Base], plan: Plan
) -> Iterator[Candidate | Measurement]:
    calibration = None
    kept = Samples(samples.path)
    if kept.manifest.split == "calibration" and any(
        SCHEMES[name].needs_ranges for name in plan.schemes if name in SCHEMES
    ):
        with plan.progress.task(" ".join(filter(None, (entry.group, "calibrate")))):
            ranges = pipeline.find_ranges(entry.graph, kept, samples.digest, plan.store)
        calibration = pipeline.Calibration(samples, ranges)
    yield from pipeline.lower_all(
        entry.graph, entry.group, bases, plan.schemes, calibration, plan.store, plan.progress
    )


def _check_leak(graph: Artifact, samples: Artifact, evaluate: Any) -> None:
    """Refuse to calibrate on what is scored; a callable's data cannot be seen from here."""
    if evaluate is None or callable(evaluate):
        return
    inputs = pipeline.signature_in(graph.path).inputs
    check_disjoint(Samples(samples.path).manifest, scoring.hashes(evaluate, inputs))


def _examine(
    found: Candidate, probe: Artifact, evaluate: Any, plan: Plan
) -> tuple[dict[str, float], scoring.Score | None]:
    """Verify and score one candidate, each once, both in one process of its own."""
    log = plan.out / "logs" / f"{found.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    seen = {**versions(found.facts["tools"]), "cpu": str(plan.device.facts().get("cpu"))}
    inputs = {"file": found.digest, "reference": probe.digest}
    with ExitStack() as closing:

        @functools.cache
        def session() -> Session:
            return closing.enter_context(open_child(found, plan.device, log))

        parity = _kept(
            "parity",
            key_of(verify.verify, inputs, seen),
            plan.store,
            lambda: _verify(session(), probe, found.scheme),
        )
        if evaluate is None:
            return parity, None
        if not isinstance(evaluate, Labelled):
            return parity, scoring.score(session(), evaluate, found.signature.inputs)
        inputs = {"file": found.digest, "data": evaluate.fingerprint}
        kept = _kept(
            "score",
            key_of(scoring.score, inputs, seen),
            plan.store,
            lambda: asdict(scoring.score(session(), evaluate, found.signature.inputs)),
        )
        return parity, scoring.Score(**kept)


def _verify(session: Session, probe: Artifact, scheme: str) -> dict[str, float]:
    inputs = pipeline.load_arrays(probe.path / "inputs.npz")
    outputs = pipeline.load_arrays(probe.path / "outputs.npz")
    return verify.verify(session, inputs, outputs, SCHEMES[scheme]).metrics


def _kept(kind: str, key: str, store: Store, maker: Any) -> dict[str, Any]:
    """Keep a small result in the store."""

    def make(out: Path) -> Facts:
        facts: Facts = maker()
        (out / f"{kind}.json").write_text(json.dumps(facts, sort_keys=True))
        return facts

    return store.make(key, kind, make)[0].facts


def _measure(
    ready: Sequence[Candidate],
    scores: Mapping[str, scoring.Score | None],
    probes: Mapping[str, Artifact],
    plan: Plan,
) -> list[Measurement]:
    """Time the candidates in turns and join what is known of each to its row."""
    if not ready:
        return []
    arrays = {
        group: (
            pipeline.load_arrays(probe.path / "inputs.npz"),
            pipeline.load_arrays(probe.path / "outputs.npz"),
        )
        for group, probe in probes.items()
    }

    def check(found: Candidate, session: Session) -> str | None:
        """Rule 3: the very session that is timed computes what the reference does."""
        inputs, outputs = (
            {name: array[:RECHECKED] for name, array in half.items()}
            for half in arrays[found.group]
        )
        scheme = SCHEMES[found.scheme]
        try:
            verify.verify(session, inputs, outputs, replace(scheme, min_agreement=0.0))
        except VerifyError as error:
            return str(error)
        return None

    def sample(found: Candidate) -> dict[str, Any]:
        return {name: array[:1] for name, array in arrays[found.group][0].items()}

    with plan.progress.task(f"measure {len(ready)} candidates in turns") as tick:
        rows = harness.measure(ready, sample, plan.device, plan.protocol, plan.out, tick, check)
    return [_joined(row, found, scores[found.id]) for row, found in zip(rows, ready, strict=True)]


def _joined(row: Measurement, found: Candidate, score: scoring.Score | None) -> Measurement:
    metrics = {**row.metrics, **found.facts.get("metrics", {})}
    facts = {
        k: v
        for k, v in {**found.facts, **row.facts}.items()
        if k not in ("metrics", "target", "options", "tools")
    }
    if score is not None:
        metrics |= score.metrics
        facts |= score.facts
    return replace(row, metrics=metrics, facts=facts)


def _tools(plan: Plan) -> list[str]:
    own = ["torchopt2edge", "torch", "onnx", "numpy"]
    return [*own, *(tool for backend in plan.backends for tool in backend.tools)]


def _link_files(rows: Sequence[Measurement], out: Path) -> None:
    """Give the run's folder a link to every candidate's file, under the candidate's name."""
    folder = out / "artifacts"
    folder.mkdir(exist_ok=True)
    for row in rows:
        file = row.facts.get("file")
        if file is None or not Path(file).is_file():
            continue
        link = folder / f"{row.candidate}{Path(file).suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(file).resolve())
