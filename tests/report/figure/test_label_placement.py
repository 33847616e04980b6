from __future__ import annotations

import random

from torchopt2edge.report.figure.label_placement import Box, Label, place_labels

FRAME = (0.0, 0.0, 1000.0, 400.0)


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_nothing_covers_anything_however_crowded() -> None:
    chance = random.Random(0)
    sizes = ((120.0, 14.0), (14.0, 14.0))
    labels = [
        Label(chance.uniform(300, 500), chance.uniform(150, 250), 6.0, sizes) for _ in range(30)
    ]
    placements = place_labels(labels, FRAME, 8.0)
    boxes = [placement.box for placement in placements if placement is not None]
    assert len(boxes) >= 20
    markers = [label.marker for label in labels]
    for i, box in enumerate(boxes):
        assert not any(overlap(box, other) for other in [*boxes[:i], *markers])
        assert FRAME[0] <= box[0] < box[2] <= FRAME[2]
        assert FRAME[1] <= box[1] < box[3] <= FRAME[3]
    assert {each.text for each in placements if each} == {0, 1}, "short texts where it is crowded"


def test_alone_a_label_is_beside_its_point_without_a_leader() -> None:
    (placement,) = place_labels([Label(500, 200, 5, ((100, 14),))], FRAME, 8.0)
    assert placement is not None
    assert not placement.leader
    assert placement.box[0] > 505
    assert placement.box[1] < 200 < placement.box[3]


def test_two_neighbours_are_labelled_on_their_own_sides() -> None:
    left, right = (Label(x, 200, 8, ((100, 14),)) for x in (500, 510))
    first, second = place_labels([left, right], FRAME, 8.0)
    assert first is not None
    assert second is not None
    assert first.box[2] < 500
    assert second.box[0] > 510


def test_without_room_there_is_no_placement() -> None:
    assert place_labels([Label(5, 5, 4, ((50.0, 10.0),))], (0, 0, 20, 20), 4.0) == [None]


def test_what_is_taken_is_not_covered() -> None:
    taken = (506.0, 150.0, 700.0, 250.0)
    (placement,) = place_labels([Label(500, 200, 5, ((100, 14),))], FRAME, 8.0, [taken])
    assert placement is not None
    assert not overlap(placement.box, taken)
