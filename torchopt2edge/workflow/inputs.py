"""What a comparison is made of: models, calibration samples, what scores."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.errors import ModelError, NoSamples
from torchopt2edge.interfaces import Session, Stage
from torchopt2edge.quantize.graph.prepare import content_digest
from torchopt2edge.samples.calibration_set import shapes_of_item
from torchopt2edge.samples.random_inputs import random_items
from torchopt2edge.store import key_of, versions
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Artifact, Facts, TensorSpec
from torchopt2edge.workflow import calibration as calibrating
from torchopt2edge.workflow.float_graph import share_graph
from torchopt2edge.workflow.run_stages import Made
from torchopt2edge.workflow.settings import Settings, SettingsArgs

if TYPE_CHECKING:
    from torch import nn

    from torchopt2edge.stages.torch_export import Examples

Evaluate = Callable[[Session], dict[str, float]] | Iterable[Any]


@dataclass(frozen=True)
class Entry:
    """One model of the comparison: its name in candidate ids ("" when alone), its graph."""

    group: str
    graph: Artifact
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What calibrates (``samples``), scores (``evaluate``) and judges mixed precision.

    ``evaluate`` is a labelled loader or a callable; ``validation`` are calibration samples that
    the ranges were not found on, None when there are no more than those.
    """

    samples: Artifact
    evaluate: Any = None
    validation: Artifact | None = None


@dataclass(frozen=True)
class Labelled:
    """A labelled loader whose content has an identity, so that a score can be kept."""

    loader: Iterable[Any]
    fingerprint: str

    def __iter__(self) -> Iterator[Any]:
        """Walk the loader."""
        return iter(self.loader)


def task_of(stages: Mapping[str, Stage], ship: Sequence[str]) -> dict[str, Task]:
    """Return the task of the first shipped stage that has one: what its files are scored by."""
    found = (getattr(stages[name], "task", None) for name in ship if name in stages)
    task = next((one for one in found if one is not None), None)
    return {} if task is None else {"task": task}


def sizes_of(facts: Facts) -> Facts:
    """Return what a stage's facts say of its model's size: parameters and multiply-accumulates."""
    return {name: facts[name] for name in ("params", "macs", "macs_share") if name in facts}


def history_of(name: str, made: Made) -> dict[str, Any]:
    """Return what the report says of a stage."""
    return {
        "name": name,
        "seconds": made.seconds,
        "cached": made.cached,
        "facts": made.artifact.facts,
    }


def resolved(
    model: nn.Module | str | Path,
    example_inputs: Examples | None,
    calibration: Iterable[Any] | None,
    evaluate: Evaluate | None,
    settings: SettingsArgs,
) -> tuple[Entry, Data, Settings]:
    """Put one model on the hub and keep its calibration samples."""
    options = Settings.of(settings).checked()
    calibration, sizes = sizes_in(model, calibration, options)
    entry = Entry("", _graph(model, example_inputs, replace(options, shapes=sizes)))
    data = data_of(calibration, evaluate, entry.graph, example_inputs, options)
    return entry, data, options


def sizes_in(
    model: nn.Module | str | Path, calibration: Iterable[Any] | None, options: Settings
) -> tuple[Iterable[Any] | None, Mapping[str, Sequence[int]] | Sequence[int]]:
    """Return the sizes of the inputs that a file leaves free: as given, else those of a sample.

    Returns:
        The calibration set (one that can be walked only once gets its first item back), and the
        sizes.
    """
    if options.shapes or calibration is None or not isinstance(model, str | Path):
        return calibration, options.shapes
    free = free_sizes(Path(model))
    if not free:
        return calibration, options.shapes
    walk = iter(calibration)
    first = next(walk, None)
    whole = itertools.chain([] if first is None else [first], walk)
    given = whole if walk is calibration else calibration
    return given, {} if first is None else shapes_of_item(first, free, options.preprocess)


def free_sizes(path: Path) -> Sequence[TensorSpec]:
    """Return the inputs of an ONNX file, where the size of one is free besides the batch."""
    import onnx
    from google.protobuf.message import DecodeError

    from torchopt2edge.quantize.graph import prepare, shapes

    if not path.is_file() or path.suffix != ".onnx":
        return ()
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError:  # whoever loads the weights reports it
        return ()
    shapes.normalize_free(proto.graph)
    return prepare.signature_of(proto, path).inputs if shapes.free_inputs(proto) else ()


def _graph(
    model: nn.Module | str | Path,
    example_inputs: Examples | None,
    options: Settings,
) -> Artifact:
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise ModelError("there is no such file", artifact=path, hint="check model.path")
        digest = content_digest(path)
        return share_graph(path, digest, options.store, options.preprocess, options.shapes)
    if example_inputs is None or not len(example_inputs):
        raise ModelError(
            "a module is exported with example inputs, and there are none",
            hint="compare(model, example_inputs=(torch.randn(1, 3, 224, 224),), …)",
        )
    from torchopt2edge.stages.export import EXPORTER, write_export
    from torchopt2edge.stages.torch_export import traced

    with options.progress.task("export"), traced(model, example_inputs) as trace:
        key = key_of(write_export, {"program": trace.digest}, versions(EXPORTER))
        write = partial(write_export, model, trace)
        exported, _ = options.store.make(key, "onnx", write)
    file = exported.path / "model.onnx"
    return share_graph(file, exported.digest, options.store, options.preprocess)


def data_of(
    calibration: Iterable[Any] | None,
    evaluate: Evaluate | None,
    graph: Artifact,
    example_inputs: Examples | None,
    options: Settings,
) -> Data:
    """Keep the calibration samples; without any, the check runs on what there is."""
    if calibration is not None:
        count, store = options.calibration_samples, options.store
        keep = partial(calibrating.keep_samples, calibration, graph, store=store)
        samples = keep(limit=count, split="calibration", seed=options.calibration_seed)
        if options.quantize.max_drop is None:
            return Data(samples, evaluate)
        try:
            limit = options.quantize.validation_samples
            return Data(samples, evaluate, keep(limit=limit, split="validation", skip=count))
        except NoSamples:  # there are no more than those that calibrate
            return Data(samples, evaluate)
    signature = calibrating.signature_in(graph.path)
    given: list[Any] = random_items(signature)
    if example_inputs is not None:
        single = hasattr(example_inputs, "shape") or isinstance(example_inputs, Mapping)
        given = [example_inputs if single else tuple(example_inputs)]
    logging.getLogger("torchopt2edge").warning(
        "no calibration data: the files are checked on %s alone, and int8 cannot be made",
        "random inputs" if example_inputs is None else "the example inputs",
    )
    samples = calibrating.keep_samples(given, graph, 8, calibrating.EXAMPLE, options.store)
    return Data(samples, evaluate)
