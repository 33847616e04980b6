"""What a comparison is made of: models, calibration samples, what scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchopt2edge.interfaces import Stage
from torchopt2edge.tasks.task import Task
from torchopt2edge.types import Artifact, Facts
from torchopt2edge.workflow.run_stages import Made


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
