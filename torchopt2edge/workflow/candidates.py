"""Make the candidates of a comparison: decide, lower, verify and score each, once."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchopt2edge.bench.child_session import ChildSession, open_child
from torchopt2edge.deploy.launch import NATIVE
from torchopt2edge.devices import Local
from torchopt2edge.errors import ConfigError, EdgeError
from torchopt2edge.evaluation import host_check
from torchopt2edge.evaluation import parity as verify
from torchopt2edge.evaluation import score as scoring
from torchopt2edge.interfaces import Backend, Device, Session
from torchopt2edge.samples.calibration_set import Samples, check_disjoint
from torchopt2edge.samples.subset import Drawn, draw
from torchopt2edge.store import Store, identity, key_of, versions
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Measurement, TensorSpec
from torchopt2edge.workflow import calibration, lowering
from torchopt2edge.workflow.settings import FAR_SAMPLES, Data, Entry, Labelled, Plan


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
    made = Made()
    with ExitStack() as closing:
        data = _drawn(entries[0].graph, data, plan, closing)
        for number, entry in enumerate(entries):
            first = plan.baseline and number == 0  # one PyTorch row: the reference
            bases = lowering.start_bases(entry.graph, _backends(entry, plan, first), plan.store)
            made.probes[entry.group] = lowering.reference_outputs(
                entry.graph, Samples(data.samples.path), data.samples.digest, plan.store
            )
            for one in _lower(entry, data, bases, plan, made.decisions):
                _take(one, entry, data, plan, made)
    return made


def runs_there(found: Candidate, device: Device) -> bool:
    """Whether a device runs a candidate: another machine has a runtime for it, and no PyTorch."""
    return isinstance(device, Local) or found.backend in NATIVE


def _drawn(graph: Artifact, data: Data, plan: Plan, closing: ExitStack) -> Data:
    """Check the evaluation set, and draw from it what a candidate is scored on."""
    limit = plan.evaluate_samples
    if limit is None and not isinstance(plan.device, Local):
        limit = FAR_SAMPLES
    if limit is not None and limit < 1:
        raise ConfigError(
            f"a candidate cannot be scored on {limit} samples",
            mend="evaluate_samples=1000, or evaluate_samples=null",
        )
    inputs = calibration.signature_in(graph.path).inputs
    count = _check_leak(inputs, data)
    if limit is None or count <= limit:
        return data
    folder = closing.enter_context(
        tempfile.TemporaryDirectory(dir=plan.out.resolve(), prefix=".evaluate-")
    )
    pairs = scoring.labelled(data.evaluate)
    drawn = draw(pairs, inputs, count, limit, Path(folder))
    if not isinstance(data.evaluate, Labelled):
        return replace(data, evaluate=drawn)
    named = f"{data.evaluate.fingerprint} {limit} of {count}"
    return replace(data, evaluate=Labelled(drawn, named))


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
        made.broken.append(lowering.failed(entry.group, found.backend, found.scheme, error))
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
    bases: Sequence[lowering.Base],
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
    yield from lowering.lower_all(
        entry.graph, entry.group, bases, plan.schemes, decided, plan.store, plan.progress
    )


def _check_leak(inputs: tuple[TensorSpec, ...], data: Data) -> int:
    """Refuse to calibrate on what is scored, and return how many samples that is.

    A callable's data cannot be seen from here; it counts as none. Example inputs calibrate
    nothing.
    """
    if data.evaluate is None or callable(data.evaluate):
        return 0
    scored = [*scoring.hashes(data.evaluate, inputs)]
    for kept in (data.samples, data.validation):
        manifest = None if kept is None else Samples(kept.path).manifest
        if manifest is not None and manifest.split != calibration.EXAMPLE:
            check_disjoint(manifest, scored)
    return len(scored)


@dataclass(frozen=True)
class Bed:
    """Where one candidate is examined: open on its device, and on this machine beside it.

    ``seen`` are the versions and machines that decide what is found.
    """

    session: Callable[[], Session]
    host: scoring.Run | None
    seen: Facts

    def score(self, evaluate: Any, inputs: tuple[TensorSpec, ...], task: Task) -> scoring.Score:
        """Score there; on another machine, hold the answers against those of this one."""
        if self.host is None:
            made = scoring.score(self.session(), evaluate, inputs, task)
        else:
            made = host_check.score_beside(self.session(), self.host, evaluate, inputs, task)
        drawn = evaluate.loader if isinstance(evaluate, Labelled) else evaluate
        if isinstance(drawn, Drawn):
            made = replace(made, facts={**made.facts, "n_eval_of": drawn.of})
        return made


@contextmanager
def _bed(found: Candidate, plan: Plan) -> Iterator[Bed]:
    """Make ready to open a candidate, once and only when somebody asks for it.

    What the device cannot run is examined on this machine. What is found on another machine is
    kept under that machine and the runtime that it has, which nobody knows before it is asked.
    """
    here = Local(threads=plan.device.threads)
    device = plan.device if runs_there(found, plan.device) else here
    logs = plan.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    seen = {**versions(found.facts["tools"]), "cpu": str(device.facts().get("cpu"))}
    with ExitStack() as closing:

        @functools.cache
        def session() -> ChildSession:
            return closing.enter_context(open_child(found, device, logs / f"{found.id}.log"))

        @functools.cache
        def host() -> ChildSession:
            return closing.enter_context(open_child(found, here, logs / f"{found.id}-here.log"))

        if isinstance(device, Local):
            yield Bed(session, None, seen)
            return
        seen |= {
            "host": str(here.facts().get("cpu")),
            "device": f"{device.name} {device.runner} {device.threads}",
            "runtime": str(session().receipt.get("runtime_version")),
        }
        yield Bed(session, lambda arrays: host()(arrays), seen)


def _examine(
    found: Candidate, probe: Artifact, evaluate: Any, plan: Plan
) -> tuple[dict[str, float], scoring.Score | None]:
    """Verify and score one candidate, each once, both in one process of its own."""
    inputs = {"file": found.digest, "reference": probe.digest}
    ends, classes = found.signature.inputs, isinstance(plan.task, Classification)
    with _bed(found, plan) as bed:
        parity = _kept(
            "parity",
            key_of([verify.verify, classes], inputs, bed.seen),
            plan.store,
            lambda: _verify(bed.session(), probe, found.scheme, classes),
        )
        if evaluate is None:
            return parity, None
        if not isinstance(evaluate, Labelled):
            return parity, bed.score(evaluate, ends, plan.task)
        task = json.dumps(identity(plan.task), sort_keys=True)
        inputs = {"file": found.digest, "data": evaluate.fingerprint, "task": task}
        kept = _kept(
            "score",
            key_of(scoring.score, inputs, bed.seen),
            plan.store,
            lambda: asdict(bed.score(evaluate, ends, plan.task)),
        )
        return parity, scoring.Score(**kept)


def _verify(session: Session, probe: Artifact, scheme: str, classes: bool) -> dict[str, float]:
    inputs = lowering.load_arrays(probe.path / "inputs.npz")
    outputs = lowering.load_arrays(probe.path / "outputs.npz")
    return verify.verify(session, inputs, outputs, SCHEMES[scheme], classes=classes).metrics


def _kept(kind: str, key: str, store: Store, maker: Any) -> dict[str, Any]:
    """Keep a small result in the store."""

    def make(out: Path) -> Facts:
        facts: Facts = maker()
        (out / f"{kind}.json").write_text(json.dumps(facts, sort_keys=True))
        return facts

    return store.make(key, kind, make)[0].facts
