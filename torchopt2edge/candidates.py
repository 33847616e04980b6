"""Make the candidates of a comparison: decide, lower, verify and score each, once."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchopt2edge import calibration, pipeline, verify
from torchopt2edge import evaluate as scoring
from torchopt2edge.bench.session import open_child
from torchopt2edge.errors import EdgeError
from torchopt2edge.plan import Data, Entry, Labelled, Plan
from torchopt2edge.protocols import Backend, Session
from torchopt2edge.quantize.samples import Samples, check_disjoint
from torchopt2edge.store import Store, identity, key_of, versions
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Measurement


@dataclass(frozen=True)
class Made:
    """What could be made of the models, and what could not.

    ``ready`` are checked candidates with their scores by id; ``broken`` rows with an error;
    ``probes`` the reference inputs and outputs, and ``decisions`` how each model was quantized,
    by group.
    """

    ready: list[Candidate] = field(default_factory=list)
    scores: dict[str, scoring.Score | None] = field(default_factory=dict)
    broken: list[Measurement] = field(default_factory=list)
    probes: dict[str, Artifact] = field(default_factory=dict)
    decisions: list[Facts] = field(default_factory=list)


def make(entries: Sequence[Entry], data: Data, plan: Plan) -> Made:
    """Decide, lower, verify and score; the failure of one candidate is a row."""
    plan.out.mkdir(parents=True, exist_ok=True)
    _check_leak(entries[0].graph, data)
    made = Made()
    for number, entry in enumerate(entries):
        first = plan.baseline and number == 0  # one PyTorch row: the reference
        bases = pipeline.start_bases(entry.graph, _backends(entry, plan, first), plan.store)
        made.probes[entry.group] = pipeline.reference_outputs(
            entry.graph, Samples(data.samples.path), data.samples.digest, plan.store
        )
        for one in _lower(entry, data, bases, plan, made.decisions):
            _take(one, entry, data, plan, made)
    return made


def _take(one: Candidate | Measurement, entry: Entry, data: Data, plan: Plan, made: Made) -> None:
    """Check a candidate and put it where it belongs."""
    if isinstance(one, Measurement):
        made.broken.append(one)
        return
    found = replace(one, facts={**one.facts, **entry.facts})
    try:
        with plan.progress.task(f"{found.id}: verify, evaluate"):
            parity, score = _examine(found, made.probes[entry.group], data.evaluate, plan)
    except EdgeError as error:
        made.broken.append(pipeline.failed(entry.group, found.backend, found.scheme, error))
        return
    made.ready.append(replace(found, facts={**found.facts, "metrics": parity}))
    made.scores[found.id] = score


def _backends(entry: Entry, plan: Plan, baseline: bool) -> list[Backend]:
    """Return the plan's backends, behind PyTorch's own where it is asked for and there is one."""
    from torchopt2edge.backends.torch_cpu import TorchCpu

    if baseline and (entry.graph.path / "model.pt2").is_file():
        return [TorchCpu(), *(b for b in plan.backends if b.name != "torch")]
    return list(plan.backends)


def _lower(
    entry: Entry,
    data: Data,
    bases: Sequence[pipeline.Base],
    plan: Plan,
    decisions: list[Facts],
) -> Iterator[Candidate | Measurement]:
    decided = None
    calibrated = Samples(data.samples.path).manifest.split == "calibration"
    if calibrated and any(SCHEMES[name].needs_ranges for name in plan.schemes if name in SCHEMES):
        with plan.progress.task(" ".join(filter(None, (entry.group, "calibrate")))) as tick:
            decided = calibration.decide(
                entry.graph, data.samples, plan.store, plan.quantize, data.validation, tick
            )
        decisions.append({"group": entry.group, **decided.facts})
    yield from pipeline.lower_all(
        entry.graph, entry.group, bases, plan.schemes, decided, plan.store, plan.progress
    )


def _check_leak(graph: Artifact, data: Data) -> None:
    """Refuse to calibrate on what is scored; a callable's data cannot be seen from here."""
    if data.evaluate is None or callable(data.evaluate):
        return
    inputs = calibration.signature_in(graph.path).inputs
    scored = set(scoring.hashes(data.evaluate, inputs))
    for kept in (data.samples, data.validation):
        if kept is not None:
            check_disjoint(Samples(kept.path).manifest, scored)


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

        classes = isinstance(plan.task, Classification)
        parity = _kept(
            "parity",
            key_of([verify.verify, classes], inputs, seen),
            plan.store,
            lambda: _verify(session(), probe, found.scheme, classes),
        )
        if evaluate is None:
            return parity, None
        if not isinstance(evaluate, Labelled):
            score = scoring.score(session(), evaluate, found.signature.inputs, plan.task)
            return parity, score
        task = json.dumps(identity(plan.task), sort_keys=True)
        inputs = {"file": found.digest, "data": evaluate.fingerprint, "task": task}
        kept = _kept(
            "score",
            key_of(scoring.score, inputs, seen),
            plan.store,
            lambda: asdict(scoring.score(session(), evaluate, found.signature.inputs, plan.task)),
        )
        return parity, scoring.Score(**kept)


def _verify(session: Session, probe: Artifact, scheme: str, classes: bool) -> dict[str, float]:
    inputs = pipeline.load_arrays(probe.path / "inputs.npz")
    outputs = pipeline.load_arrays(probe.path / "outputs.npz")
    return verify.verify(session, inputs, outputs, SCHEMES[scheme], classes=classes).metrics


def _kept(kind: str, key: str, store: Store, maker: Any) -> dict[str, Any]:
    """Keep a small result in the store."""

    def make(out: Path) -> Facts:
        facts: Facts = maker()
        (out / f"{kind}.json").write_text(json.dumps(facts, sort_keys=True))
        return facts

    return store.make(key, kind, make)[0].facts
