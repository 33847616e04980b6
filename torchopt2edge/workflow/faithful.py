"""Hold the shared graph against the model as it came, on real samples, before anything is made.

What a user hands us is right until the opposite is shown. A rewrite of ours that moves an output
beyond the noise of float32 is left out, by name; a model whose answers depend on the other samples
of its batch is shipped, and therefore measured, with a batch of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchopt2edge.errors import EdgeError, ExportError
from torchopt2edge.quantize.graph.float_noise import float_noise
from torchopt2edge.quantize.graph.leave_out import smallest
from torchopt2edge.samples.calibration_set import Samples
from torchopt2edge.stats.noise import Noise
from torchopt2edge.store import Store, key_of
from torchopt2edge.types import Artifact, Facts
from torchopt2edge.workflow.calibration import link, signature_in
from torchopt2edge.workflow.float_graph import SOURCE

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]
Batches = Sequence[Mapping[str, Array]]

PROBES = 4


def hold(graph: Artifact, samples: Artifact, store: Store) -> Artifact:
    """Return the shared graph that computes what the model as it came does.

    Args:
        graph: the shared graph, with `SOURCE` beside it.
        samples: real samples, or the examples that there are.
        store: where the outcome is kept.

    Returns:
        ``graph`` itself where it holds; else one with the rewrites left out, or with its batch
        fixed to 1. Its facts say so in ``notes``.
    """
    if not (graph.path / SOURCE).is_file():
        return graph
    kept = Samples(samples.path)
    shown = " ".join(kept.manifest.hashes[:PROBES])
    key = key_of(_write_held, {"graph": graph.digest, "samples": shown})
    held, _ = store.make(key, "held", partial(_write_held, graph.path, kept))
    return held if (held.path / "model.onnx").is_file() else graph


def _write_held(graph: Path, samples: Samples, out: Path) -> Facts:
    """Write another graph where the given one does not hold, and nothing where it does."""
    import onnx

    source, proto = onnx.load(graph / SOURCE), onnx.load(graph / "model.onnx")
    batches = list(samples.feeds(1, PROBES))
    want, noise = _answers(source, batches), float_noise(source, batches)
    left_out: Sequence[str] = ()
    if not _same(want, _answers(proto, batches), noise):
        left_out = _smallest(source, graph / SOURCE, batches, want, noise)
        proto = _prepared(source, graph / SOURCE, left_out)
    pinned = _depends_on_batch(source, batches, want, noise)
    if not left_out and not pinned:
        return {}
    _write(graph, proto, pinned, out)
    return {"left_out": list(left_out), "notes": [*_notes(left_out, pinned)]}


def _write(graph: Path, proto: ModelProto, pinned: bool, out: Path) -> None:
    import json

    import onnx

    from torchopt2edge.quantize.graph.shapes import pin_batch

    signature = signature_in(graph)
    if pinned:
        proto = pin_batch(proto)
        fix = partial(map, lambda spec: replace(spec, shape=(1, *spec.shape[1:])))
        signature = replace(
            signature, inputs=tuple(fix(signature.inputs)), outputs=tuple(fix(signature.outputs))
        )
    onnx.save(proto, out / "model.onnx")
    (out / "signature.json").write_text(json.dumps(signature.to_json(), indent=1))
    for file in sorted(graph.iterdir()):
        if not (out / file.name).exists():
            link(file, out / file.name)


def _notes(left_out: Sequence[str], pinned: bool) -> list[str]:
    notes = []
    if left_out:
        named = ", ".join(left_out)
        notes.append(f"left out of the graph, because it changes what this model computes: {named}")
    if pinned:
        notes.append(
            "this model's answers depend on the other samples of a batch: it is shipped, scored "
            "and timed with a batch of 1"
        )
    return notes


def _answers(proto: ModelProto, batches: Batches) -> dict[str, Array]:
    """Run without any optimization; outputs are joined over the batches."""
    from torchopt2edge.quantize.graph.host_session import host_session

    session = host_session(proto, optimize=False)
    names = [value.name for value in session.get_outputs()]
    values = [session.run(names, dict(batch)) for batch in batches]
    return {name: np.stack([row[at] for row in values]) for at, name in enumerate(names)}


def _same(want: Mapping[str, Array], found: Mapping[str, Array], noise: Noise) -> bool:
    return all(
        noise.explains(name, want[name], found[name]) if name in found else False for name in want
    )


def _prepared(source: ModelProto, path: Path, left_out: Sequence[str]) -> ModelProto:
    from torchopt2edge.quantize.graph import prepare

    copy = type(source)()
    copy.CopyFrom(source)
    return prepare.prepared(copy, path, left_out)


def _smallest(
    source: ModelProto, path: Path, batches: Batches, want: Mapping[str, Array], noise: Noise
) -> Sequence[str]:
    """Return the fewest rewrites that must be left out.

    Raises:
        ExportError: the graph computes something else without any of them, too.
    """
    from torchopt2edge.quantize.graph.host_session import ort_errors
    from torchopt2edge.quantize.graph.prepare import REWRITES

    failures: tuple[type[BaseException], ...] = (EdgeError, *ort_errors())

    def holds(left_out: Sequence[str]) -> bool:
        try:
            return _same(want, _answers(_prepared(source, path, left_out), batches), noise)
        except failures:  # half of the rewrites may leave what cannot run
            return False

    if not holds(REWRITES):
        raise ExportError(
            "the graph computes something else once its opset is brought up to date",
            artifact=path,
            hint="export it again in opset 18 (torch.onnx.export(..., dynamo=True))",
        )
    return smallest(REWRITES, holds)


def _depends_on_batch(
    source: ModelProto, batches: Batches, want: Mapping[str, Array], noise: Noise
) -> bool:
    """Whether a free batch of several gives other answers than one by one."""
    from torchopt2edge.quantize.graph.host_session import ort_errors
    from torchopt2edge.quantize.graph.shapes import has_free_batch

    if not has_free_batch(source) or len(batches) < 2:
        return False
    together = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    try:
        found = _answers(source, [together])
    except ort_errors():  # it takes no more than one, whatever its shape says
        return True
    for name, value in want.items():
        if value.ndim < 2 or value.shape[1] != 1:
            return True
        joined, single = found[name][0], value[:, 0]
        if joined.shape != single.shape or not noise.explains(name, single, joined):
            return True
    return False
