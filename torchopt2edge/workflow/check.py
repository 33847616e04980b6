"""Check and score one candidate on its device, each once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from torchopt2edge.store import Store, key_of
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Scheme, TensorSpec
from torchopt2edge.workflow import reference
from torchopt2edge.workflow.answering_code import runner_code
from torchopt2edge.workflow.inputs import Labelled
from torchopt2edge.workflow.settings import Settings


def runs_there(found: Candidate, device: Device) -> bool:
    """Whether a device runs a candidate: another machine has a runtime for it, and no PyTorch."""
    return isinstance(device, Local) or found.backend in NATIVE


@dataclass(frozen=True)
class Bed:
    """Where one candidate is examined: open on its device, and on this machine beside it.

    ``code`` is what answers there, ``host_code`` what answers here, and ``seen`` are the machines
    that decide what is found.
    """

    session: Callable[[], Session]
    host: scoring.Run | None
    code: Sequence[object]
    seen: Mapping[str, str]
    host_code: Sequence[object] = ()

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
def _bed(found: Candidate, settings: Settings) -> Iterator[Bed]:
    """Make ready to open a candidate, once and only when somebody asks for it.

    What the device cannot run is examined on this machine. What is found on another machine is
    kept under that machine and the runtime that it has, which nobody knows before it is asked.
    """
    here = Local(threads=settings.device.threads)
    device = settings.device if runs_there(found, settings.device) else here
    logs = settings.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    machine = settings.machine if device is settings.device else here.facts()
    code, seen = runner_code(found, device), {"cpu": _processor(machine)}
    with ExitStack() as closing:

        @functools.cache
        def session() -> ChildSession:
            return closing.enter_context(open_child(found, device, logs / f"{found.id}.log"))

        @functools.cache
        def host() -> ChildSession:
            return closing.enter_context(open_child(found, here, logs / f"{found.id}-here.log"))

        if isinstance(device, Local):
            yield Bed(session, None, code, seen)
            return
        seen |= {
            "host": _processor(here.facts()),
            "device": f"{device.name} {device.runner} {device.threads}",
            "runtime": str(session().receipt.get("runtime_version")),
        }
        yield Bed(session, lambda arrays: host()(arrays), code, seen, runner_code(found, here))


def _processor(facts: Facts) -> str:
    """Name what decides which kernels a runtime takes: the processor and its instructions."""
    return " ".join(map(str, (facts.get("cpu"), *facts.get("cpu_flags", ()))))


def examine(
    found: Candidate, probe: Artifact, evaluate: Any, settings: Settings
) -> tuple[Facts, scoring.Score | None]:
    """Verify and score one candidate, each once, both in one process of its own.

    Returns:
        The parity (``metrics`` for the row's columns, ``facts`` for its receipt), and the score.

    Raises:
        VerifyError: the outputs differ from the reference by more than the scheme allows.
        EvaluateError: the metric cannot be computed.
    """
    inputs = {"file": found.digest, "reference": probe.digest}
    ends, classes = found.signature.inputs, isinstance(settings.task, Classification)
    scheme = SCHEMES[found.scheme]
    floors = [scheme.min_sqnr_db, scheme.min_agreement]
    with _bed(found, settings) as bed:
        parity = _kept(
            "parity",
            key_of([_verify, classes, floors, bed.code], inputs, bed.seen),
            settings.store,
            lambda: _verify(bed.session(), probe, scheme, classes),
        )
        if evaluate is None:
            return parity, None
        if not isinstance(evaluate, Labelled):
            return parity, bed.score(evaluate, ends, settings.task)
        how = scoring.score if bed.host is None else host_check.score_beside
        task = [settings.task.metric, settings.task.predict]
        inputs = {"file": found.digest, "data": evaluate.fingerprint}
        kept = _kept(
            "score",
            key_of([how, task, bed.code, bed.host_code], inputs, bed.seen),
            settings.store,
            lambda: asdict(bed.score(evaluate, ends, settings.task)),
        )
        return parity, scoring.Score(**kept)


def _verify(session: Session, probe: Artifact, scheme: Scheme, classes: bool) -> Facts:
    inputs = reference.load_arrays(probe.path / "inputs.npz")
    outputs = reference.load_arrays(probe.path / "outputs.npz")
    noise = reference.load_noise(probe.path)
    found = verify.verify(session, inputs, outputs, scheme, classes=classes, noise=noise)
    return {"metrics": found.metrics, "facts": found.facts}


def _kept(kind: str, key: str, store: Store, maker: Any) -> dict[str, Any]:
    """Keep a small result in the store."""

    def make(out: Path) -> Facts:
        facts: Facts = maker()
        (out / f"{kind}.json").write_text(json.dumps(facts, sort_keys=True))
        return facts

    return store.make(key, kind, make)[0].facts
