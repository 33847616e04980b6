"""One comparison: lower, verify, evaluate, time in turns, decide, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchopt2edge import report
from torchopt2edge.bench import harness, profile
from torchopt2edge.bench.fast_path import falls_back, placement
from torchopt2edge.bench.file_size import PACKED, sizes
from torchopt2edge.deploy.launch import runner_of
from torchopt2edge.devices import Local
from torchopt2edge.errors import BenchError, VerifyError
from torchopt2edge.evaluation import parity
from torchopt2edge.evaluation import score as scoring
from torchopt2edge.interfaces import Device, Session
from torchopt2edge.stats.paired import paired
from torchopt2edge.stats.rows import reference_row
from torchopt2edge.store import versions
from torchopt2edge.types import SCHEMES, Candidate, Facts, Measurement, Verdict
from torchopt2edge.verdict import decide
from torchopt2edge.workflow import candidates, crosscheck
from torchopt2edge.workflow.calibration import link
from torchopt2edge.workflow.check import runs_there
from torchopt2edge.workflow.inputs import Data, Entry
from torchopt2edge.workflow.reference import load_arrays, load_noise
from torchopt2edge.workflow.settings import Settings

RECHECKED = 4


def compare(
    entries: Sequence[Entry],
    data: Data,
    settings: Settings,
    history: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[Measurement], Verdict]:
    """Make every candidate, measure those that hold, decide, and write the run's folder."""
    made = candidates.make(entries, data, settings)
    try:
        rows = [*_measure(made, settings), *made.broken]
    except harness.Interrupted as stop:
        finish([*_joined_all(stop.rows, made), *made.broken], settings, history, made.decisions)
        raise
    return finish(rows, settings, history, made.decisions)


def lower(entry: Entry, data: Data, settings: Settings) -> tuple[list[Measurement], Verdict]:
    """Make and check every candidate, time none, and write the files and what they are."""
    made = candidates.make([entry], data, settings)
    rows = [*(_joined(bare(one), one, made.scores[one.id]) for one in made.ready), *made.broken]
    untimed = Verdict(None, reasons=["nothing was timed: torchopt2edge bench times the files"])
    return finish(rows, settings, (), made.decisions, untimed)


def bare(found: Candidate) -> Measurement:
    """Return the row of a candidate that was checked and not timed."""
    facts = {"group": found.group, "file": str(found.file), "digest": found.digest}
    return Measurement(found.id, found.backend, found.scheme, metrics=sizes(found), facts=facts)


def finish(
    rows: list[Measurement],
    settings: Settings,
    history: Sequence[Mapping[str, Any]] = (),
    decisions: Sequence[Facts] = (),
    decided: Verdict | None = None,
) -> tuple[list[Measurement], Verdict]:
    """Decide, unless that was done, write the report, and return both."""
    base = reference_row(rows)
    reference = None if base is None else base.candidate
    rows = [against(row, rows, reference) for row in rows]
    rows += crosscheck.checks(rows, settings.device, settings.progress)
    decided = decided or decide.decide(rows, settings.constraints, reference)
    environment = {
        "device": settings.machine,
        "protocol": settings.timing.name,
        "versions": versions(_tools(settings)),
        **settings.environment,
    }
    report.write(
        settings.out,
        rows,
        decided,
        title=settings.title,
        stages=history,
        environment=environment,
        decisions=decisions,
    )
    _keep_files(rows, settings.out)
    return rows, decided


def against(row: Measurement, rows: Sequence[Measurement], reference: str | None) -> Measurement:
    """Mark the reference row; give the others their loss on the very samples it was scored on."""
    if row.candidate == reference:
        return replace(row, facts={**row.facts, "reference": True})
    base = next((one for one in rows if one.candidate == reference), None)
    if base is None:
        return row
    drop = paired(base.facts, row.facts)
    return replace(row, metrics={**row.metrics, **drop})


def _measure(made: candidates.Made, settings: Settings) -> list[Measurement]:
    """Time the candidates in turns and join what is known of each to its row."""
    ready, refused = placed(made.ready, settings)
    if not ready:
        return refused
    arrays = {
        group: (
            load_arrays(probe.path / "inputs.npz"),
            load_arrays(probe.path / "outputs.npz"),
        )
        for group, probe in made.probes.items()
    }
    noises = {group: load_noise(probe.path) for group, probe in made.probes.items()}

    def check(found: Candidate, session: Session) -> str | None:
        """Rule 3: the very session that is timed computes what the reference does."""
        inputs, outputs = (
            {name: array[:RECHECKED] for name, array in half.items()}
            for half in arrays[found.group]
        )
        scheme = SCHEMES[found.scheme]
        try:
            exact = replace(scheme, min_agreement=0.0)
            parity.verify(session, inputs, outputs, exact, noise=noises[found.group])
        except VerifyError as error:
            return str(error)
        return None

    def sample(found: Candidate) -> dict[str, Any]:
        return {name: array[:1] for name, array in arrays[found.group][0].items()}

    return [*_joined_all(race(ready, sample, settings, check), made), *refused]


def race(
    ready: Sequence[Candidate],
    sample: harness.Sample,
    settings: Settings,
    check: harness.Check | None = None,
) -> list[Measurement]:
    """Time the candidates with every setting of threads and cores; profile where it is asked for.

    What the device cannot run (PyTorch in the native runner, and on any other machine) is a row
    that was not timed: two kinds of runner, or of machine, are never compared.
    """
    timed = [one for one in ready if _runs(one, settings.device)]
    entered = settings.bench.variants(timed)
    if not entered:
        return [_untimed(one, settings.device) for one in ready]
    how = "in turns" if settings.timing.turns else "one after the other"
    with settings.progress.task(f"measure {_counted(entered)} {how}") as tick:
        rows = harness.measure(
            entered, sample, settings.device, settings.timing, settings.out, tick, check
        )
    if settings.bench.profile:
        with settings.progress.task("profile their operators"):
            looked = profile.profiles(timed, sample, settings.device, settings.out)
        rows = [_with(row, looked.get(row.facts.get("base", row.candidate), {})) for row in rows]
    return [*rows, *(_untimed(one, settings.device) for one in ready if one not in timed)]


def _counted(entered: Sequence[Candidate]) -> str:
    return "1 candidate" if len(entered) == 1 else f"{len(entered)} candidates"


def _untimed(one: Candidate, device: Device) -> Measurement:
    return _with(bare(one), {**one.facts, "notes": [f"not timed: {_why_not(device)}"]})


def _runs(one: Candidate, device: Device) -> bool:
    return runs_there(one, device) and runner_of(one, device) == device.runner


def _why_not(device: Device) -> str:
    if isinstance(device, Local):
        return f"the {device.runner} runner cannot run it"
    return f"{device.name} runs ONNX Runtime and LiteRT; this one was checked and scored here"


def placed(
    found: Sequence[Candidate], settings: Settings
) -> tuple[list[Candidate], list[Measurement]]:
    """Say of every candidate how much of it is in the fast path; refuse where it is asked for."""
    ready, refused = [], []
    for one in found:
        where = placement(one.backend, one.scheme, one.facts)
        known = replace(one, facts={**one.facts, **({"placement": where} if where else {})})
        why = falls_back(where) if settings.bench.fail_on_fallback else None
        if why is None:
            ready.append(known)
            continue
        error = BenchError(
            f"bench.fail_on_fallback: {why}",
            artifact=one.id,
            hint="another scheme, quantize.exclude=[], or bench.fail_on_fallback=false",
        )
        refused.append(replace(bare(known), metrics={}, err=str(error)))
    return ready, refused


def _with(row: Measurement, facts: Facts) -> Measurement:
    return replace(row, facts={**row.facts, **facts})


def _joined_all(rows: Sequence[Measurement], made: candidates.Made) -> list[Measurement]:
    """Join every row with the candidate that it is of, by the id before any setting."""
    ready = {one.id: one for one in made.ready}
    bases = [str(row.facts.get("base", row.candidate)) for row in rows]
    return [
        _joined(row, ready[base], made.scores[base]) for row, base in zip(rows, bases, strict=True)
    ]


def _joined(row: Measurement, found: Candidate, score: scoring.Score | None) -> Measurement:
    metrics = {**row.metrics, **found.facts.get("metrics", {})}
    facts = {
        k: v
        for k, v in {**found.facts, **row.facts}.items()
        if k not in ("metrics", "target", "options", "tools", PACKED)
    }
    if score is not None:
        metrics |= score.metrics
        facts |= score.facts
    known = (found.facts, row.facts, {} if score is None else score.facts)
    if said := [*dict.fromkeys(note for one in known for note in one.get("notes") or ())]:
        facts["notes"] = said
    return replace(row, metrics=metrics, facts=facts)


def _tools(settings: Settings) -> list[str]:
    own = ["torchopt2edge", "torch", "onnx", "numpy"]
    return [*own, *(tool for backend in settings.backends for tool in backend.tools)]


def _keep_files(rows: Sequence[Measurement], out: Path) -> None:
    """Put every candidate's file into the run's folder under its name, with its signature beside.

    They are files of their own: the folder can be copied, and the store can be deleted.
    """
    folder = out / "artifacts"
    folder.mkdir(exist_ok=True)
    for row in rows:
        file = Path(str(row.facts.get("file", "")))
        if not row.facts.get("file") or not file.is_file():
            continue
        for source, target in (
            (file.resolve(), folder / f"{row.candidate}{file.suffix}"),
            (file.with_name("signature.json"), folder / f"{row.candidate}.signature.json"),
        ):
            if source.is_file() and not (target.is_file() and target.samefile(source)):
                target.unlink(missing_ok=True)
                link(source, target)
