"""The costliest operators of each candidate, by its own runtime's profiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchopt2edge.bench.child_session import open_child
from torchopt2edge.errors import EdgeError
from torchopt2edge.interfaces import Device
from torchopt2edge.types import Candidate, Facts

if TYPE_CHECKING:
    import numpy as np

RUNS = 30
SHOWN = 10


def profiles(
    candidates: Sequence[Candidate],
    sample: Callable[[Candidate], Mapping[str, np.ndarray[Any, Any]]],
    device: Device,
    work: Path,
) -> dict[str, Facts]:
    """Return ``{"profile": operators}`` or ``{"profile_err": why not}`` by candidate.

    Each is run in a process of its own and after the race: a profiler slows what it looks at.
    It is the Python runner's, which alone has both runtimes' profilers.
    """
    python = replace(device, runner="python")  # type: ignore[type-var]
    found: dict[str, Facts] = {}
    for one in candidates:
        log = work / "logs" / f"profile-{one.id.replace('/', '_')}.log"
        try:
            with open_child(one, python, log) as session:
                session.load_timed(sample(one))
                found[one.id] = {"profile": costliest(session.profile(RUNS))}
        except EdgeError as error:
            found[one.id] = {"profile_err": str(error)}
    return found


def costliest(operators: Sequence[Mapping[str, Any]]) -> list[Facts]:
    """Return the ten that take most, with their share of the whole in per cent."""
    whole = sum(float(one["ms"]) for one in operators) or 1.0
    order = sorted(operators, key=lambda one: -float(one["ms"]))[:SHOWN]
    return [{**one, "share": round(100.0 * float(one["ms"]) / whole, 2)} for one in order]
