"""Samples that can be drawn again: every pixel follows from a seed, a view and an index.

Nothing of the generators' state has to be carried from epoch to epoch: a training that was killed
draws the very same batches when it goes on, whatever the number of workers, and what a teacher
said of a batch can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from torchopt2edge.data.dataset import Samples
from torchopt2edge.training.batch import Batch

Key = tuple[int, int]
"""A view and the index of a sample."""


def mixed(*parts: int) -> int:
    """Return 32 well-mixed bits of some integers: neighbours give unrelated generators.

    Source: the finalizer of SplitMix64 (Steele, Lea & Flood 2014).
    """
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0xFFFFFFFF


@dataclass(frozen=True)
class Views:
    """Samples by (view, index), each augmented from a generator seeded with the two and ``seed``.

    The augmentation draws from torch's global generator, which is put back afterwards.
    """

    samples: Samples
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Any, Any, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Any, Any, int]]:
        """Return (input, target, index) for each key; torch's loader asks for whole batches."""
        generator = torch.default_generator
        before = generator.get_state()
        try:
            drawn = []
            for view, index in keys:
                generator.manual_seed(mixed(self.seed, view, index))
                inputs, target = self.samples[index]
                drawn.append((inputs, target, index))
            return drawn
        finally:
            generator.set_state(before)


@dataclass
class Order:
    """The batches of one epoch: keys in an order that ``seed`` and the epoch decide.

    ``done`` batches of it are left out; of every batch a process takes its own part. A last
    batch of a single sample is left out: normalisation over it fails.
    """

    count: int
    size: int
    seed: int
    views: int | None
    rank: int = 0
    world: int = 1
    epoch: int = 0
    done: int = 0

    @property
    def view(self) -> int:
        """The augmentation of this epoch."""
        return self.epoch if self.views is None else self.epoch % self.views

    @property
    def whole(self) -> int:
        """The batches of a whole epoch."""
        full, rest = divmod(self.count, self.size)
        return full + (rest > self.world)

    def __len__(self) -> int:
        return self.whole - self.done

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch, 1))
        order = torch.randperm(self.count, generator=generator).tolist()
        for batch in range(self.done, self.whole):
            part = order[batch * self.size : (batch + 1) * self.size][self.rank :: self.world]
            yield [(self.view, index) for index in part]


def batches(samples: Samples, order: Order, workers: int, view_seed: int) -> DataLoader[Any]:
    """Return a loader of (inputs, targets, index) over ``order``, which is read anew by epoch."""
    return DataLoader(
        Views(samples, view_seed),  # type: ignore[arg-type]
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )


def collate(drawn: list[tuple[Any, Any, int]]) -> tuple[Any, Any, torch.Tensor]:
    """Stack samples into (inputs, targets, index); targets are None where one has none."""
    inputs, targets, index = zip(*drawn, strict=True)
    known = None if any(target is None for target in targets) else default_collate(list(targets))
    return default_collate(list(inputs)), known, torch.tensor(index)


def to_batch(loaded: tuple[Any, Any, torch.Tensor], view: int, device: torch.device) -> Batch:
    """Bring a loaded batch to the device that trains; images in channels-last order there."""
    inputs, targets, index = loaded
    if isinstance(inputs, torch.Tensor):
        layout = torch.channels_last if inputs.ndim == 4 else torch.preserve_format
        inputs = inputs.to(device, non_blocking=True, memory_format=layout)
    if isinstance(targets, torch.Tensor):
        targets = targets.to(device, non_blocking=True)
    return Batch(inputs, targets, index, view)
