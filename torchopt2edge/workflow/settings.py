"""What a run is made of, every name resolved: the plan, the models, the data."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Backend, Device
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Artifact, Constraints, Facts
from torchopt2edge.workflow.progress import Progress

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import Protocol


FAR_SAMPLES = 1000
"""How many samples are scored on another machine where nobody says how many."""


@dataclass(frozen=True)
class Plan:
    """How a comparison is made.

    ``evaluate_samples`` is how many samples score a candidate at most; None is all of them on this
    machine, and `FAR_SAMPLES` on another.
    """

    backends: tuple[Backend, ...]
    schemes: tuple[str, ...]
    device: Device
    protocol: Protocol
    out: Path
    constraints: Constraints
    baseline: bool
    store: Store
    progress: Progress
    quantize: Quantize = field(default_factory=Quantize)
    task: Task = field(default_factory=Classification)
    bench: Bench = field(default_factory=Bench)
    evaluate_samples: int | None = None
    title: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


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


def resolve_backends(wanted: Sequence[str | Backend]) -> tuple[Backend, ...]:
    """Turn names into backends; an object is taken as it is.

    Raises:
        ConfigError: there is no such backend; lists those there are.
    """
    return tuple(_backend(one) if isinstance(one, str) else one for one in wanted)


def backend_names() -> list[str]:
    """Name the backends that have a yaml in ``conf/backend``."""
    folder = resources.files("torchopt2edge.conf") / "backend"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir())


def _backend(name: str) -> Backend:
    import yaml

    known = backend_names()
    if name not in known:
        raise ConfigError(f"there is no backend {name!r}", hint=f"one of {', '.join(known)}")
    file = resources.files("torchopt2edge.conf") / "backend" / f"{name}.yaml"
    node = yaml.safe_load(file.read_text())[name]
    module, _, cls = node.pop("_target_").rpartition(".")
    # What only a composed config can resolve is left to the dataclass's own default.
    plain = {key: value for key, value in node.items() if not str(value).startswith("${")}
    made: Backend = getattr(importlib.import_module(module), cls)(**plain)
    return made
