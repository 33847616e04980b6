"""What a training draws follows from seeds alone."""

from __future__ import annotations

from itertools import pairwise

import torch

from torchopt2edge.data.digits import Digits
from torchopt2edge.training.augmented_views import Order, Views, batches, mixed, to_batch


def drawn(digits: Digits, workers: int, epoch: int, views: int | None = None) -> list[torch.Tensor]:
    samples = digits.split("train")
    order = Order(len(samples), 256, 7, views, epoch=epoch)
    return [inputs for inputs, _, _ in batches(samples, order, workers, 7)]


def test_workers_draw_the_same_batches(digits: Digits) -> None:
    alone, helped = drawn(digits, 0, 3), drawn(digits, 2, 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_views_come_back_in_another_order(digits: Digits) -> None:
    samples = Views(digits.split("train"), seed=1)
    assert torch.equal(samples[(4, 9)][0], samples[(4, 9)][0])
    assert not torch.equal(samples[(4, 9)][0], samples[(5, 9)][0])
    first, again = drawn(digits, 0, 0, views=2), drawn(digits, 0, 2, views=2)
    assert not torch.equal(first[0], again[0])
    assert torch.equal(
        torch.cat(first).flatten(1).double().sort(0).values.sum(1),
        torch.cat(again).flatten(1).double().sort(0).values.sum(1),
    )


def test_drawing_leaves_the_global_generator_alone(digits: Digits) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    Views(digits.split("train"), 0)[(0, 0)]
    assert torch.equal(torch.rand(4), wanted)


def test_every_sample_comes_once_and_a_lone_last_one_not() -> None:
    keys = [key for batch in Order(21, 5, 0, None) for key in batch]
    assert len(keys) == len(set(keys)) == 20
    assert len([key for batch in Order(22, 5, 0, None) for key in batch]) == 22
    order = Order(20, 5, 0, None)
    rest = Order(20, 5, 0, None, done=2)
    assert list(order)[2:] == list(rest)
    assert (len(order), len(rest)) == (4, 2)


def test_processes_share_each_batch() -> None:
    whole = list(Order(40, 8, 0, None))
    parts = [list(Order(40, 8, 0, None, rank=rank, world=2)) for rank in (0, 1)]
    for one, *shares in zip(whole, *parts, strict=True):
        assert sorted(one) == sorted(key for share in shares for key in share)


def test_bits_are_mixed() -> None:
    bits = [mixed(0, 0, index) for index in range(1000)]
    assert len(set(bits)) == 1000
    flips = [bin(a ^ b).count("1") for a, b in pairwise(bits)]
    assert 14 < sum(flips) / len(flips) < 18


def test_a_batch_names_its_samples(digits: Digits) -> None:
    samples = digits.split("train")
    order = Order(len(samples), 64, 0, views=3, epoch=4)
    loaded = next(iter(batches(samples, order, 0, 0)))
    batch = to_batch(loaded, order.view, torch.device("cpu"))
    assert batch.view == 1
    assert batch.index is not None
    assert [samples[i][1] for i in batch.index.tolist()] == batch.targets.tolist()
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
