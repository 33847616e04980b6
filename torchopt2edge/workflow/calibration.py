"""Calibration over the store: which samples are kept, and what is decided on them.

Every decision is made once per graph, samples and options, and found again; a search that was
killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge.quantize import decide as deciding
from torchopt2edge.quantize.decide import Judging
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.samples.calibration_set import Samples, write_samples
from torchopt2edge.store import Store, digest_of, key_of
from torchopt2edge.types import Artifact, Facts, Ranges, Signature
from torchopt2edge.workflow.progress import Tick

if TYPE_CHECKING:
    from torchopt2edge.quantize.held_out import Validation

DEFAULTS = Quantize()
EXAMPLE = "example"
"""The split of inputs that files are checked on and that calibrate nothing."""


@dataclass(frozen=True)
class Calibration:
    """What static schemes take: the samples, and what was decided on them.

    ``graph`` is what the ranges are of: the shared graph, or its equalized or bias-corrected
    twin. ``facts`` is the decision, for the report.
    """

    samples: Artifact
    ranges: Ranges
    graph: Artifact
    facts: Facts


def keep_samples(
    source: Iterable[object],
    graph: Artifact,
    limit: int,
    split: str,
    store: Store,
    seed: int | None = None,
    skip: int = 0,
) -> Artifact:
    """Keep up to ``limit`` samples in the store, under the digest of their content.

    Those that come first, or those behind the first ``skip``; ``seed`` is what they were drawn
    with, for the manifest.
    """
    inputs = signature_in(graph.path).inputs
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder)
        facts = write_samples(source, inputs, limit, split, taken, seed, skip)
        key = key_of("samples", {"samples": digest_of(taken)}, {})

        def make(out: Path) -> Facts:
            shutil.copytree(taken, out, dirs_exist_ok=True)
            return facts

        return store.make(key, "samples", make)[0]


def signature_in(folder: Path) -> Signature:
    """Read the ``signature.json`` of an artifact."""
    return Signature.from_json(json.loads((folder / "signature.json").read_text()))


def decide(
    graph: Artifact,
    samples: Artifact,
    store: Store,
    options: Quantize = DEFAULTS,
    validation: Artifact | None = None,
    tick: Tick = lambda done, total, what: None,
) -> Calibration:
    """Decide how the shared graph is quantized, on calibration samples alone; once."""
    options.check()
    judging, seen = _judging(options, validation or samples)
    inputs = {"graph": graph.digest, "samples": samples.digest}
    if validation is not None:
        inputs["validation"] = validation.digest
    key = key_of([_write_decision, options, judging and judging.func], inputs, seen)
    write = partial(_write_decision, graph, Samples(samples.path), options, judging, tick)
    made, _ = store.make(key, "quantization", write)
    ranges = Ranges.from_json(json.loads((made.path / "ranges.json").read_text()))
    changed = (made.path / "model.onnx").is_file()
    used = Artifact("graph", made.path, made.digest) if changed else graph
    return Calibration(samples, ranges, used, made.facts)


def _judging(
    options: Quantize, held_out: Artifact
) -> tuple[partial[Validation] | None, dict[str, str]]:
    """Return what judges mixed precision, where it is asked for, and what that depends on besides.

    It runs int8 files on this machine, whose instructions decide how their integers are added.
    """
    if options.max_drop is None:
        return None, {}
    from torchopt2edge.quantize.held_out import Validation
    from torchopt2edge.runner import system_info

    model, flags = system_info.cpu()
    judging = partial(Validation, samples=Samples(held_out.path))
    return judging, {"cpu": " ".join((model, *flags))}


def _write_decision(
    graph: Artifact,
    samples: Samples,
    options: Quantize,
    judging: Judging | None,
    tick: Tick,
    out: Path,
) -> Facts:
    file, learned = graph.path / "model.onnx", learned_in(graph)
    facts = deciding.decide(file, samples, options, out, judging, learned, tick)
    if (out / "model.onnx").is_file():
        shutil.copyfile(graph.path / "signature.json", out / "signature.json")
    return facts


def learned_in(graph: Artifact) -> Ranges | None:
    """Return the ranges that training left beside the graph, None when it left none."""
    file = graph.path / "ranges.json"
    return Ranges.from_json(json.loads(file.read_text())) if file.is_file() else None


def link(source: Path, target: Path) -> None:
    """Give an immutable file a second name; copy where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
