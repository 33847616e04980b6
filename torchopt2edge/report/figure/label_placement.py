"""Places text beside the points of a scatter plot so that nothing covers anything.

Greedy, the most important label first: each takes the nearest free place around its point, and
falls back to a shorter text where its own finds none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, inf

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels, with x0 <= x1 and y0 <= y1."""

_STEPS = 6
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class Label:
    """A label that needs a place beside the marker at (x, y).

    Attributes:
        x: The marker's centre.
        y: The marker's centre.
        half: Half the marker's width.
        sizes: The (width, height) of its texts, the best text first.
    """

    x: float
    y: float
    half: float
    sizes: tuple[tuple[float, float], ...]

    @property
    def marker(self) -> Box:
        """The box that the marker fills."""
        return self.x - self.half, self.y - self.half, self.x + self.half, self.y + self.half


@dataclass(frozen=True)
class Placement:
    """Where a label goes.

    Attributes:
        text: The index of the text that fits.
        box: The text's box.
        leader: Whether it needs a line to its point.
    """

    text: int
    box: Box
    leader: bool


def place_labels(
    labels: Sequence[Label], frame: Box, step: float, taken: Sequence[Box] = ()
) -> list[Placement | None]:
    """Place labels.

    Args:
        labels: The labels, the most important first.
        frame: The box that they must stay within.
        step: By how many pixels a label is tried further away from its marker.
        taken: Boxes besides the markers that no label may cover.

    Returns:
        A placement per label, in order, or None where there is no room.
    """
    used: list[Box] = [*taken, *(label.marker for label in labels)]
    placements: list[Placement | None] = []
    for label in labels:
        others = [other for other in labels if other is not label]
        best = _best(label, others, frame, step, used)
        if best is not None:
            used.append(best.box)
        placements.append(best)
    return placements


def _best(
    label: Label, others: Sequence[Label], frame: Box, step: float, used: Sequence[Box]
) -> Placement | None:
    free = [
        option
        for option in _options(label, step)
        if _inside(option.box, frame) and not any(_overlap(option.box, box) for box in used)
    ]
    # A leader that crosses another marker misleads; a place further away is better.
    clear = [option for option in free if not _crosses(label, option.box, others)]
    best = next(iter(clear or free), None)
    if best is None:
        return None
    rival = min((_distance(other, best.box) for other in others), default=inf)
    return replace(best, leader=best.leader or rival < 1.5 * _distance(label, best.box))


def _options(label: Label, step: float) -> Iterator[Placement]:
    """Yield the nearest places first, of the best text first."""
    for text, (width, height) in enumerate(label.sizes):
        for number in range(1, _STEPS + 1):
            away = label.half + step * (number - 0.5)
            for dx, dy in _DIRECTIONS:
                x = label.x + dx * (away + width / 2)
                y = label.y + dy * (away + height / 2)
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                yield Placement(text, box, number > 1)


def nearest_point(label: Label, box: Box) -> tuple[float, float]:
    """Return where a leader ends.

    Args:
        label: The label.
        box: The box of its text.

    Returns:
        The point of the box that is nearest to the marker's centre.
    """
    return min(max(label.x, box[0]), box[2]), min(max(label.y, box[1]), box[3])


def _distance(label: Label, box: Box) -> float:
    x, y = nearest_point(label, box)
    return hypot(x - label.x, y - label.y)


def _crosses(label: Label, box: Box, others: Sequence[Label]) -> bool:
    """Return whether the line from the marker to the box runs through another marker."""
    x, y = nearest_point(label, box)
    points = [
        (label.x + (x - label.x) * i / 12, label.y + (y - label.y) * i / 12) for i in range(4, 13)
    ]
    return any(_contains(other.marker, point) for other in others for point in points)


def _contains(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
