"""Check and score one candidate on its device, each once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchopt2edge.bench.child_session import ChildSession, open_child
from torchopt2edge.deploy.launch import NATIVE
from torchopt2edge.devices import Local
from torchopt2edge.evaluation import host_check
from torchopt2edge.evaluation import parity as verify
from torchopt2edge.evaluation import score as scoring
from torchopt2edge.interfaces import Device, Session
from torchopt2edge.samples.subset import Drawn
from torchopt2edge.store import Store, identity, key_of, versions
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, TensorSpec
from torchopt2edge.workflow import reference
from torchopt2edge.workflow.inputs import Labelled
from torchopt2edge.workflow.settings import Plan


def runs_there(found: Candidate, device: Device) -> bool:
    """Whether a device runs a candidate: another machine has a runtime for it, and no PyTorch."""
    return isinstance(device, Local) or found.backend in NATIVE


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


def examine(
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
    inputs = reference.load_arrays(probe.path / "inputs.npz")
    outputs = reference.load_arrays(probe.path / "outputs.npz")
    return verify.verify(session, inputs, outputs, SCHEMES[scheme], classes=classes).metrics


def _kept(kind: str, key: str, store: Store, maker: Any) -> dict[str, Any]:
    """Keep a small result in the store."""

    def make(out: Path) -> Facts:
        facts: Facts = maker()
        (out / f"{kind}.json").write_text(json.dumps(facts, sort_keys=True))
        return facts

    return store.make(key, kind, make)[0].facts
