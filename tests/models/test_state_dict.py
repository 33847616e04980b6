"""What trainings leave behind: the state dict is found by the keys of the net."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchopt2edge.errors import ModelError
from torchopt2edge.models.artifact import load_checkpoint


def net() -> nn.Sequential:
    """Return a net with every kind of entry: weights, running statistics, a counter."""
    torch.manual_seed(1)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))


class Unknown:
    """A class that no other process may build."""

    def __init__(self) -> None:
        self.rate = 0.1


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    """Return the net's state under a prefix."""
    return {f"{prefix}{key}": value for key, value in net().state_dict().items()}


WRAPPED: dict[str, Any] = {
    "plain": prefixed(""),
    "lightning": {
        "epoch": 3,
        "state_dict": {**prefixed("net."), "criterion.weight": torch.ones(4)},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(4)}}}],
        "hyper_parameters": {"net": Unknown(), "lr": functools.partial(Unknown)},
    },
    "compiled": {"state_dict": prefixed("model._orig_mod.")},
    "compiled and distributed": prefixed("_orig_mod.module."),
    "any name": {"net": prefixed("module."), "acc": 93.1, "epoch": 1},
    "averaged": {**prefixed("module."), "n_averaged": torch.tensor(7)},
    "half": net().half().state_dict(),
    "deep": {"payload": {"weights": prefixed("backbone.")}},
    "ema alone": {"model_ema": prefixed("")},
    "counters beside": {**prefixed(""), "step": 7, "name": "x"},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_weights_are_found(kind: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[kind], tmp_path / "net.ckpt")
    found = net()
    nn.init.zeros_(found.conv.weight)
    load_checkpoint(found, tmp_path / "net.ckpt")
    tolerance = 1e-3 if kind == "half" else 0.0
    torch.testing.assert_close(found.conv.weight, net().conv.weight, rtol=0, atol=tolerance)


def test_averaged_weights_are_taken_when_they_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averaged = {key: value * 2 for key, value in prefixed("").items()}
    torch.save({"state_dict": prefixed(""), "state_dict_ema": averaged}, tmp_path / "net.pth")
    found = net()
    with caplog.at_level(logging.INFO, "torchopt2edge"):
        load_checkpoint(found, tmp_path / "net.pth")
    assert "'state_dict_ema'" in caplog.text
    assert torch.equal(found.conv.weight, net().conv.weight)
    load_checkpoint(found, tmp_path / "net.pth", "state_dict_ema")
    assert torch.equal(found.conv.weight, 2 * net().conv.weight)
    with pytest.raises(ModelError, match="state_dict_ema"):
        load_checkpoint(found, tmp_path / "net.pth", "swa")


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": prefixed(""), "hyper_parameters": Evil()}, tmp_path / "net.ckpt")
    with contextlib.suppress(ModelError):  # refused, or taken without the object
        load_checkpoint(net(), tmp_path / "net.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda v: v.to(torch.int8), "int8"),
        (lambda v: v.to(torch.complex64), "complex64"),
        (lambda v: v.to_sparse() if v.ndim else v, "holds"),
        (lambda v: v.to("meta"), "holds"),
    ],
    ids=["int8", "complex", "sparse", "meta"],
)
def test_numbers_that_are_no_weights_are_refused(values: Any, said: str, tmp_path: Path) -> None:
    torch.save({key: values(value) for key, value in prefixed("").items()}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=said):
        load_checkpoint(net(), tmp_path / "net.pth")


def test_another_net_is_named_by_its_differences(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(3, 4).state_dict()}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"conv\.\w+ is missing"):
        load_checkpoint(net(), tmp_path / "net.pth")


def test_a_file_without_tensors_says_so(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="not a state dict"):
        load_checkpoint(net(), tmp_path / "net.pth")
