"""Make the candidates of a comparison: decide, lower, verify and score each, once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchopt2edge.devices import Local
from torchopt2edge.errors import (
    ConfigError,
    EdgeError,
    ExportError,
    LowerError,
    VerifyError,
    contained,
    optional,
)
from torchopt2edge.evaluation import score as scoring
from torchopt2edge.interfaces import Backend, Converting
from torchopt2edge.samples.calibration_set import Samples, check_disjoint
from torchopt2edge.samples.subset import draw
from torchopt2edge.store import key_of
from torchopt2edge.types import SCHEMES, Artifact, Candidate, Facts, Measurement, TensorSpec
from torchopt2edge.workflow import calibration, faithful, lowering
from torchopt2edge.workflow.check import examine
from torchopt2edge.workflow.inputs import Data, Entry, Labelled
from torchopt2edge.workflow.reference import reference_outputs
from torchopt2edge.workflow.settings import FAR_SAMPLES, Settings

_RUN_HINT = "run the .onnx in onnxruntime.InferenceSession with one sample: it must run there first"


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


def make(entries: Sequence[Entry], data: Data, settings: Settings) -> Made:
    """Decide, lower, verify and score; the failure of one candidate is a row.

    Raises:
        EdgeError: the float model itself cannot be run, or the data cannot be used.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    made = Made()
    with ExitStack() as closing:
        data = _drawn(entries[0].graph, data, settings, closing)
        for number, entry in enumerate(entries):
            first = settings.baseline and number == 0  # one PyTorch row: the reference
            _make_one(_held(entry, data, settings), data, settings, made, first)
    return made


def _held(entry: Entry, data: Data, settings: Settings) -> Entry:
    """Hold the graph against the model as it came (`faithful`)."""
    with contained("the float model cannot be run", ExportError, hint=_RUN_HINT):
        graph = faithful.hold(entry.graph, data.samples, settings.store)
    notes = graph.facts.get("notes", ())
    return replace(entry, graph=graph, facts={**entry.facts, **({"notes": notes} if notes else {})})


def _make_one(entry: Entry, data: Data, settings: Settings, made: Made, baseline: bool) -> None:
    """Make, check and score the candidates of one model."""
    backends = _backends(entry, settings, baseline)
    begun = lowering.start_bases(entry.graph, backends, settings.store)
    with contained("the float model cannot be run", ExportError, hint=_RUN_HINT):
        made.probes[entry.group] = reference_outputs(
            entry.graph, Samples(data.samples.path), data.samples.digest, settings.store
        )
    bases = [
        (backend, lowering.Checked(future, partial(_check_base, backend, entry, data, settings)))
        for backend, future in begun
    ]
    for one in _lower(entry, data, bases, settings, made.decisions):
        _take(one, entry, data, settings, made)


def _check_base(
    backend: Backend, entry: Entry, data: Data, settings: Settings, base: Artifact
) -> None:
    """Hold a converted float file against the model before anything is lowered from it.

    Raises:
        VerifyError: it computes something else; says from which operator on.
    """
    if not isinstance(backend, Converting):
        return
    here = settings.device if isinstance(settings.device, Local) else Local()
    found = lowering.float_candidate(entry.graph, base, backend, settings.store)
    probe = reference_outputs(
        entry.graph, Samples(data.samples.path), data.samples.digest, settings.store
    )
    try:
        examine(found, probe, None, settings if here is settings.device else settings.on(here))
    except VerifyError as error:
        where: list[str] = []
        with optional("the operator at which it parts", where):
            where.append(backend.parting(entry.graph, base, data.samples.path))
        raise VerifyError(
            "; ".join(
                filter(None, (f"the converted float file is not the model: {error.what}", *where))
            ),
            artifact=entry.group or None,
            hint="write that part of the model in another way, or backends=[ort]",
        ) from error


def _drawn(graph: Artifact, data: Data, settings: Settings, closing: ExitStack) -> Data:
    """Check the evaluation set, and draw from it what a candidate is scored on."""
    limit = settings.evaluate_samples
    if limit is None and not isinstance(settings.device, Local):
        limit = FAR_SAMPLES
    if limit is not None and limit < 1:
        raise ConfigError(
            f"a candidate cannot be scored on {limit} samples",
            hint="evaluate_samples=1000, or evaluate_samples=null",
        )
    inputs = calibration.signature_in(graph.path).inputs
    count = _check_leak(inputs, data)
    if limit is None or count <= limit:
        return data
    folder = closing.enter_context(
        tempfile.TemporaryDirectory(dir=settings.out.resolve(), prefix=".evaluate-")
    )
    pairs = scoring.labelled(data.evaluate)
    drawn = draw(pairs, inputs, count, limit, Path(folder))
    if not isinstance(data.evaluate, Labelled):
        return replace(data, evaluate=drawn)
    named = key_of([draw, limit, count], {"data": data.evaluate.fingerprint})
    return replace(data, evaluate=Labelled(drawn, named))


def _take(
    one: Candidate | Measurement, entry: Entry, data: Data, settings: Settings, made: Made
) -> None:
    """Check a candidate and put it where it belongs."""
    if isinstance(one, Measurement):
        made.broken.append(one)
        return
    found = replace(one, facts=_with_notes(one.facts, entry.facts))
    try:
        with (
            settings.progress.task(f"{found.id}: verify, evaluate"),
            contained("it cannot be checked or scored", VerifyError, artifact=found.id),
        ):
            parity, score = examine(found, made.probes[entry.group], data.evaluate, settings)
    except EdgeError as error:
        made.broken.append(lowering.failed(entry.group, found.backend, found.scheme, error))
        return
    facts = {**_with_notes(found.facts, parity["facts"]), "metrics": parity["metrics"]}
    made.ready.append(replace(found, facts=facts))
    made.scores[found.id] = score


def _with_notes(facts: Facts, more: Facts) -> Facts:
    """Join two receipts; notes are added to notes."""
    notes = [*dict.fromkeys((*facts.get("notes", ()), *more.get("notes", ())))]
    return {**facts, **more, **({"notes": notes} if notes else {})}


def _backends(entry: Entry, settings: Settings, baseline: bool) -> list[Backend]:
    """Return the backends, PyTorch's own first where it is asked for and there is one."""
    from torchopt2edge.backends.torch_cpu import TorchCpu

    if baseline and (entry.graph.path / "model.pt2").is_file():
        return [TorchCpu(), *(b for b in settings.backends if b.name != "torch")]
    return list(settings.backends)


def _lower(
    entry: Entry,
    data: Data,
    bases: Sequence[lowering.Base],
    settings: Settings,
    decisions: list[Facts],
) -> Iterator[Candidate | Measurement]:
    decided: calibration.Calibration | LowerError | None = None
    if _calibrates(data, settings):
        try:
            decided = _decided(entry, data, settings)
        except LowerError as error:  # the float files do not need it
            decided = error
        else:
            decisions.append({"group": entry.group, **decided.facts})
    yield from lowering.lower_all(
        entry.graph,
        entry.group,
        bases,
        settings.schemes,
        decided,
        settings.store,
        settings.progress,
    )


def _calibrates(data: Data, settings: Settings) -> bool:
    if Samples(data.samples.path).manifest.split != "calibration":
        return False
    return any(SCHEMES[name].needs_ranges for name in settings.schemes if name in SCHEMES)


def _decided(entry: Entry, data: Data, settings: Settings) -> calibration.Calibration:
    task = " ".join(filter(None, (entry.group, "calibrate")))
    with (
        settings.progress.task(task) as tick,
        contained("the ranges of int8 cannot be found", LowerError),
    ):
        return calibration.decide(
            entry.graph, data.samples, settings.store, settings.quantize, data.validation, tick
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
