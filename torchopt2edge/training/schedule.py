"""The learning rate at a step, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torchopt2edge.training.recipe import Recipe


def shape(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Return the recipe's schedule over ``steps`` optimizer steps: step from 0 on → 0 … 1."""
    warmup = min(round(recipe.warmup * steps / max(1, recipe.epochs)), steps - 1)
    bodies: dict[str, Callable[[float], float]] = {
        "cosine": _cosine,
        "step": partial(_stairs, milestones=recipe.milestones, gamma=recipe.gamma),
        "constant": _constant,
    }
    return partial(_at, warmup=warmup, steps=steps, body=bodies[recipe.lr_schedule])


def _at(step: int, warmup: int, steps: int, body: Callable[[float], float]) -> float:
    """Up a line, then the body over what is left."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return body(min(1.0, (step - warmup) / max(1, steps - warmup)))


def _cosine(done: float) -> float:
    """Half a cosine down to zero (Loshchilov & Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * done))


def _stairs(done: float, milestones: tuple[float, ...], gamma: float) -> float:
    return gamma ** sum(done >= place for place in milestones)


def _constant(done: float) -> float:
    return 1.0
