"""Values against the types of annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest

from torchopt2edge.cli.values import fits, in_words


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (3, int, True),
        (True, int, False),
        (2.5, int, False),
        (3, float, True),
        (True, float, False),
        (1, bool, False),
        ("a", str, True),
        (None, str, False),
        (None, str | None, True),
        ("auto", bool | str, True),
        (1.5, bool | str, False),
        ("sgd", Literal["sgd", "adamw"], True),
        ("adam", Literal["sgd", "adamw"], False),
        ([1, 2], tuple[int, ...], True),
        ([1, "x"], tuple[int, ...], False),
        ([1, 2], tuple[int, int], True),
        ([1], tuple[int, int], False),
        (["a"], Sequence[str], True),
        ("a", Sequence[str], False),
        ([[0], [0, 1]], tuple[tuple[int, ...], ...] | None, True),
        ([[0], ["big"]], tuple[tuple[int, ...], ...] | None, False),
        ({"_target_": "mine.epochs"}, int, True),  # whoever takes what it builds judges it
        ("anything", Callable[..., int], True),
        ("anything", Mapping[str, int], True),
        ("anything", Any, True),
    ],
)
def test_a_value_fits_a_type(value: Any, kind: Any, right: bool) -> None:
    assert fits(value, kind) is right


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number, or null"),
        (bool | str, "true or false, or a word"),
        (tuple[int, ...], "a list of which each is a whole number"),
        (Literal["sgd", "adamw"], "one of sgd, adamw"),
    ],
)
def test_a_type_in_words(kind: Any, words: str) -> None:
    assert in_words(kind) == words
