from __future__ import annotations

import random

from torchopt2edge.report.figure.label_placement import Box, Wish, place

FRAME = (0.0, 0.0, 1000.0, 400.0)


def covers(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_nothing_covers_anything_however_crowded() -> None:
    dice = random.Random(0)
    wishes = [
        Wish(dice.uniform(300, 500), dice.uniform(150, 250), 6.0, ((120.0, 14.0), (14.0, 14.0)))
        for _ in range(30)
    ]
    places = place(wishes, FRAME, 8.0)
    boxes = [found.box for found in places if found is not None]
    assert len(boxes) >= 20
    markers = [wish.marker for wish in wishes]
    for i, box in enumerate(boxes):
        assert not any(covers(box, other) for other in [*boxes[:i], *markers])
        assert FRAME[0] <= box[0] < box[2] <= FRAME[2]
        assert FRAME[1] <= box[1] < box[3] <= FRAME[3]
    assert {found.text for found in places if found} == {0, 1}, "short texts where it is crowded"


def test_alone_a_label_sits_beside_its_point_without_a_line() -> None:
    (found,) = place([Wish(500, 200, 5, ((100, 14),))], FRAME, 8.0)
    assert found is not None
    assert not found.lead
    assert found.box[0] > 505
    assert found.box[1] < 200 < found.box[3]


def test_two_neighbours_are_labelled_on_their_own_sides() -> None:
    left, right = (Wish(x, 200, 8, ((100, 14),)) for x in (500, 510))
    first, second = place([left, right], FRAME, 8.0)
    assert first is not None
    assert second is not None
    assert first.box[2] < 500
    assert second.box[0] > 510


def test_what_has_no_place_gets_none() -> None:
    assert place([Wish(5, 5, 4, ((50.0, 10.0),))], (0, 0, 20, 20), 4.0) == [None]
