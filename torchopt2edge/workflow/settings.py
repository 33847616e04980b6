"""What a run is made of, every name resolved: the plan, the models, the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torchopt2edge._moved import keywords
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Backend, Device
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Constraints
from torchopt2edge.workflow.progress import LogProgress, Progress

if TYPE_CHECKING:
    from torchopt2edge.bench.timing import TimingPlan


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
    protocol: TimingPlan
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


def resolve_backends(wanted: Sequence[str | Backend]) -> tuple[Backend, ...]:
    """Turn names into backends; an object is taken as it is.

    Raises:
        ConfigError: there is no such backend; lists those there are.
    """
    return tuple(registry.build("backend", one) if isinstance(one, str) else one for one in wanted)


def backend_names() -> list[str]:
    """Name the backends that have a yaml in ``conf/backend``."""
    known: list[str] = registry.options("backend")
    return known


class SettingsArgs(TypedDict, total=False):
    """The keywords that every function of this module takes; see `Settings`."""

    backends: Sequence[str | Backend]
    schemes: Sequence[str]
    device: Device
    devices: Sequence[Device]
    timing: str | TimingPlan
    protocol: str | TimingPlan  # the previous name of timing
    out: str | Path
    constraints: Constraints
    baseline: bool
    calibration_samples: int
    calibration_seed: int | None
    quantize: Quantize
    task: Task
    evaluate_samples: int | None
    bench: Bench
    preprocess: Preprocess
    store: Store
    progress: Progress
    title: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    ``backends`` are names or objects, ``schemes`` names; ``devices`` are several in place of
    ``device``, each with a run in a folder of its own under ``out``; ``timing`` is ``smoke``,
    ``quick``, ``standard``, ``sustained`` or an object; ``out`` the run's folder; ``baseline`` adds
    PyTorch's own row where there is a module. At most ``calibration_samples`` are taken from the
    calibration set (``calibration_seed`` is what they were drawn with, for the manifest);
    ``quantize`` says how ranges are found on them, ``task`` what a labelled loader is scored by and
    ``evaluate_samples`` on how many of it at most (None: all; on another machine 1000), ``bench``
    which threads and cores are tried and what else is looked at. ``preprocess`` is what makes the
    model's input of a raw image, for loaders that yield raw images. ``store`` and ``progress``
    default to the user's cache and to log lines. ``title`` stands above the report, what
    ``environment`` holds below it (``command``: how to run it again).
    """

    backends: Sequence[str | Backend] = ("ort", "litert")
    schemes: Sequence[str] = ("fp32", "int8")
    device: Device | None = None
    devices: Sequence[Device] = ()
    timing: str | TimingPlan = "quick"
    out: str | Path = "outputs/run"
    constraints: Constraints = field(default_factory=Constraints)
    baseline: bool = True
    calibration_samples: int = 256
    calibration_seed: int | None = None
    quantize: Quantize = field(default_factory=Quantize)
    task: Task = field(default_factory=Classification)
    evaluate_samples: int | None = None
    bench: Bench = field(default_factory=Bench)
    preprocess: Preprocess | None = None
    store: Store = field(default_factory=Store.default)
    progress: Progress = field(default_factory=LogProgress)
    title: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Build from keywords.

        Raises:
            ConfigError: a keyword is unknown; names the nearest.
        """
        known = [item.name for item in fields(cls)]
        given = keywords(given, known)
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"there is no setting {name!r}",
                    hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}",
                )
        return cls(**given)

    def plan(self, device: Device | None = None, out: Path | None = None) -> Plan:
        """Resolve names into objects, for another device in another folder where they are given.

        Raises:
            ConfigError: an unknown backend or timing preset; names those there are.
        """
        from torchopt2edge import devices
        from torchopt2edge.bench import timing

        device = device or (None if self.devices else self.device) or devices.Local()
        facts = device.facts()
        plan = timing.by_name(self.timing) if isinstance(self.timing, str) else self.timing
        return Plan(
            backends=tuple(
                backend.for_target(facts) for backend in resolve_backends(self.backends)
            ),
            schemes=tuple(self.schemes),
            device=device,
            protocol=plan,
            out=out or Path(self.out),
            constraints=self.constraints,
            baseline=self.baseline,
            store=self.store,
            progress=self.progress,
            quantize=self.quantize,
            task=self.task,
            evaluate_samples=self.evaluate_samples,
            bench=self.bench,
            title=self.title,
            environment=self.environment,
        )
