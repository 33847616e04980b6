"""Place text beside the points of a scatter plot so that nothing covers anything.

Greedy, most important label first: each takes the nearest free place around its point, and falls
back to a shorter text when its own finds none. Boxes are in display pixels, y upward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, inf

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
_STEPS = 6
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class Wish:
    """A label that wants a place beside the marker at (x, y).

    ``half`` is half the marker's width; ``sizes`` the (width, height) of its texts, best first.
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
class Place:
    """Where a label goes: which of its texts, its box, and whether it needs a line to its point."""

    text: int
    box: Box
    lead: bool


def place(
    wishes: Sequence[Wish], frame: Box, reach: float, taken: Sequence[Box] = ()
) -> list[Place | None]:
    """Return a place for every wish, in order, or None where there is none within the frame.

    ``reach`` is the step in which a label goes away from its marker; ``taken`` are boxes beside
    the markers that no label may cover.
    """
    used: list[Box] = [*taken, *(wish.marker for wish in wishes)]
    found: list[Place | None] = []
    for wish in wishes:
        others = [other for other in wishes if other is not wish]
        free = [
            option
            for option in _options(wish, reach)
            if _inside(option.box, frame) and not any(_cover(option.box, box) for box in used)
        ]
        # A line that crosses another marker says the wrong thing; better a place further away.
        clear = [option for option in free if not _crosses(wish, option.box, others)]
        best = next(iter(clear or free), None)
        if best is not None:
            used.append(best.box)
            rival = min((_distance(other, best.box) for other in others), default=inf)
            best = replace(best, lead=best.lead or rival < 1.5 * _distance(wish, best.box))
        found.append(best)
    return found


def _options(wish: Wish, reach: float) -> Iterator[Place]:
    """Nearest places first, of the best text first."""
    for text, (width, height) in enumerate(wish.sizes):
        for step in range(1, _STEPS + 1):
            away = wish.half + reach * (step - 0.5)
            for right, up in _AROUND:
                x = wish.x + right * (away + width / 2)
                y = wish.y + up * (away + height / 2)
                box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                yield Place(text, box, step > 1)


def nearest(wish: Wish, box: Box) -> tuple[float, float]:
    """Return the point of the box that is nearest to the marker's centre."""
    return min(max(wish.x, box[0]), box[2]), min(max(wish.y, box[1]), box[3])


def _distance(wish: Wish, box: Box) -> float:
    x, y = nearest(wish, box)
    return hypot(x - wish.x, y - wish.y)


def _crosses(wish: Wish, box: Box, others: Sequence[Wish]) -> bool:
    """Whether the line from the marker to the box runs through another marker."""
    x, y = nearest(wish, box)
    along = [(wish.x + (x - wish.x) * i / 12, wish.y + (y - wish.y) * i / 12) for i in range(4, 13)]
    return any(_holds(other.marker, point) for other in others for point in along)


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _cover(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
