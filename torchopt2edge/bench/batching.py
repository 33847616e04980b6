"""Batches on their way to another machine, gathered: many small ones travel there as one file.

To bring a file costs a few commands however small it is, so batches of one shape are stacked until
they fill one, and cut again on both ends: what is run at once is what would be run without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Answer = dict[str, Array]


class Joining(Protocol):
    """What this needs of a session: `child_session.ChildSession` has it."""

    def __call__(self, inputs: Arrays) -> Answer:
        """Run one batch."""

    def joins(self, size: int) -> bool:
        """Whether batches of that many samples can be run stacked."""

    def run_stacked(self, inputs: Arrays, size: int) -> Answer:
        """Run stacked batches of ``size`` samples each as they would be run one by one."""


def each(
    session: Joining, items: Iterable[tuple[Arrays, T]], most: int
) -> Iterator[tuple[Answer, Arrays, T]]:
    """Walk batches (each with something that goes along) with what the session answers.

    Of the batches that go there together none holds more than ``most`` bytes but one alone.
    """
    group: list[tuple[Arrays, T]] = []
    room = 0
    for inputs, along in items:
        room -= _bytes(inputs)
        if not group or room < 0 or not _fits(session, group[0][0], inputs):
            yield from _answered(session, group)
            group, room = [], most - _bytes(inputs)
        group.append((inputs, along))
    yield from _answered(session, group)


def _answered(
    session: Joining, group: list[tuple[Arrays, T]]
) -> Iterator[tuple[Answer, Arrays, T]]:
    if len(group) < 2:
        yield from ((session(inputs), inputs, along) for inputs, along in group)
        return
    first, _ = group[0]
    size = len(next(iter(first.values())))
    stacked = {name: np.concatenate([inputs[name] for inputs, _ in group]) for name in first}
    found = session.run_stacked(stacked, size)
    for at, (inputs, along) in enumerate(group):
        rows = slice(at * size, (at + 1) * size)
        yield {name: value[rows] for name, value in found.items()}, inputs, along


def _fits(session: Joining, first: Arrays, other: Arrays) -> bool:
    """Whether two batches are of one shape, and of one that can be stacked."""
    sizes = {len(value) if np.ndim(value) else 0 for value in first.values()}
    alike = first.keys() == other.keys() and all(
        (value.shape, value.dtype) == (other[name].shape, other[name].dtype)
        for name, value in first.items()
    )
    return alike and len(sizes) == 1 and min(sizes) > 0 and session.joins(min(sizes))


def _bytes(inputs: Arrays) -> int:
    return sum(value.nbytes for value in inputs.values())
