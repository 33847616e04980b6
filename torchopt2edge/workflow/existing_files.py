"""Files that exist already: find out what they are, feed them something, measure them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.bench import harness
from torchopt2edge.errors import ConfigError, EdgeError, LowerError
from torchopt2edge.interfaces import Backend
from torchopt2edge.quantize.graph import prepare, shapes
from torchopt2edge.samples.random_inputs import random_sample
from torchopt2edge.types import Candidate, Measurement, Signature, Verdict
from torchopt2edge.workflow import comparison, lowering
from torchopt2edge.workflow.float_graph import file_digest
from torchopt2edge.workflow.inputs import free_sizes
from torchopt2edge.workflow.settings import Settings, backend_names, resolve_backends

if TYPE_CHECKING:
    from onnx import ModelProto

_READ_S = 120


def measure_files(files: Sequence[Path], settings: Settings) -> tuple[list[Measurement], Verdict]:
    """Measure the files in turns and write the run's folder.

    Raises:
        ConfigError: no files, or a suffix that no backend opens.
    """
    if not files:
        raise ConfigError("there are no files", hint="torchopt2edge bench 'artifacts=[a.onnx]'")
    settings.out.mkdir(parents=True, exist_ok=True)
    found: list[Candidate] = []
    broken: list[Measurement] = []
    for file, group in zip(files, _names(files), strict=True):
        backend = _backend(file)
        try:
            found.append(describe(_whole(file, settings), backend, group))
        except EdgeError as error:
            broken.append(lowering.failed(group, backend.name, "unknown", error))
    found, refused = comparison.placed(_short(found), settings)
    try:
        rows = comparison.race(found, lambda one: random_sample(one.signature), settings)
    except harness.Interrupted as stop:
        comparison.finish([*stop.rows, *refused, *broken], settings)
        raise
    rows = [replace(row, facts={**row.facts, "checked": "against itself"}) for row in rows]
    return comparison.finish([*rows, *refused, *broken], settings)


def _short(found: Sequence[Candidate]) -> list[Candidate]:
    """Say backend and scheme once where a file's name ends with them, as those of `lower` do."""
    made = []
    for one in found:
        said = lowering.candidate_id("", one.backend, one.scheme)
        group = one.group.removesuffix(said).rstrip("-_.")
        name = lowering.candidate_id(group, one.backend, one.scheme)
        made.append(replace(one, id=name, group=group))
    return made if len({one.id for one in made}) == len(made) else list(found)


def _whole(file: Path, settings: Settings) -> Path:
    """Return the file, or one in the run's folder with what it lacks.

    That is the weights which lie beside it, since what is weighed, hashed and brought to a device
    is one file; and the sizes that it leaves free, since a time belongs to a size.

    Raises:
        ConfigError: a size is free, and nobody gave it.
        ExportError: the weights cannot be read.
    """
    if file.suffix != ".onnx" or not file.is_file():
        return file
    sized = _sized(file, settings)
    if sized is None and not prepare.weights_beside(file):
        return file
    import onnx

    proto = prepare.load(file) if sized is None else sized
    content = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    target = settings.out / "whole" / content[:16] / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, target)
    declared = file.with_name("signature.json")
    if declared.is_file() and sized is None:
        shutil.copyfile(declared, target.with_name(declared.name))
    return target


def _sized(file: Path, settings: Settings) -> ModelProto | None:
    """Return the graph with the sizes that were given; None where the file leaves none free."""
    if not free_sizes(file):
        return None
    proto = prepare.load(file)
    shapes.normalize_free(proto.graph)
    given = settings.shapes
    if given:
        named = given if isinstance(given, Mapping) else shapes.only(proto, given, file)
        free = shapes.free_inputs(proto)  # several files are measured, each with inputs of its own
        proto = shapes.pin(proto, {name: named[name] for name in free if name in named}, file)
    still = shapes.still_free(proto)
    if still:
        raise ConfigError(
            f"the size of an input is free: {still}",
            artifact=file,
            hint=f"say what it is measured at: {shapes.example(proto)}",
        )
    return proto


def describe(file: Path, backend: Backend, group: str) -> Candidate:
    """Say what a file is: its scheme and signature are read from the file itself.

    Raises:
        EdgeError: it cannot be read.
    """
    if not file.is_file():
        raise ConfigError("there is no such file", artifact=file)
    told = _ask_child(file)
    scheme = str(told["scheme"])
    named, shared = file.with_suffix(".signature.json"), file.parent / "signature.json"
    beside = named if named.is_file() else shared
    declared = json.loads(beside.read_text()) if beside.is_file() else told["signature"]
    signature = Signature.from_json(declared)
    cls = type(backend)
    return Candidate(
        lowering.candidate_id(group, backend.name, scheme),
        backend.name,
        scheme,
        file,
        signature,
        file_digest(file),
        {
            **told["facts"],
            "target": f"{cls.__module__}.{cls.__qualname__}",
            "options": lowering.options(backend),
        },
        group,
    )


def _ask_child(file: Path) -> dict[str, Any]:
    """Have a child read the file: a damaged .tflite can take its reader's process along."""
    command = [sys.executable, "-m", "torchopt2edge.workflow.existing_files", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_READ_S)
    except subprocess.TimeoutExpired as error:
        raise LowerError(f"reading it took more than {_READ_S} s", artifact=file) from error
    if done.returncode < 0:
        raise LowerError(
            f"its reader was killed by signal {-done.returncode}: the file is damaged",
            artifact=file,
            hint="write it again",
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LowerError(f"it cannot be read: {said}", artifact=file)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "what" in told:
        raise LowerError(told["what"], artifact=file, hint=told["hint"])
    return told


def _tell(file: Path) -> None:
    """Be that child: say what the file declares, or what is wrong, as JSON on the last line."""
    backend = _backend(file)
    try:
        told: dict[str, Any] = {
            "scheme": backend.read_scheme(file),
            "signature": backend.read_signature(file).to_json(),
            "facts": backend.read_facts(file),
        }
    except EdgeError as error:
        told = {"what": error.what, "hint": error.hint}
    sys.stdout.write(f"{json.dumps(told)}\n")


def _names(files: Sequence[Path]) -> list[str]:
    """Name each file by its stem, with its folder's name or a number where stems repeat."""
    counts = Counter(file.stem for file in files)
    names = [
        f.stem if counts[f.stem] == 1 else f"{f.resolve().parent.name}-{f.stem}" for f in files
    ]
    again = Counter(names)
    seen: Counter[str] = Counter()
    out = []
    for name in names:
        seen[name] += 1
        out.append(name if again[name] == 1 else f"{name}-{seen[name]}")
    return out


def _backend(file: Path) -> Backend:
    """Return the backend whose files end like this one."""
    backends = resolve_backends(backend_names())
    for backend in backends:
        if file.suffix == backend.suffix:
            return backend
    raise ConfigError(
        f"no backend opens {file.suffix or 'a file without suffix'}",
        artifact=file,
        hint=f"give files that end in {' or '.join(backend.suffix for backend in backends)}",
    )


if __name__ == "__main__":
    _tell(Path(sys.argv[1]))
