"""Nets that are no plain CNNs: both runtimes round the same, and what is rounded is usable."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchopt2edge as t2e
from torchopt2edge.store import Store
from torchopt2edge.types import Measurement

LAYERS = ("FULLY_CONNECTED", "CONV_2D", "PAD")


@dataclass(frozen=True)
class Made:
    """A net's rows by backend and scheme."""

    kind: type[nn.Module]
    rows: dict[tuple[str, str], Measurement]


class Tokens(nn.Module):
    """A vision transformer in small: a class token, LayerNorm, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.before, self.norm, self.last = (nn.LayerNorm(24) for _ in range(3))
        self.head = nn.Linear(24, 5)
        self.mixed = nn.MultiheadAttention(24, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(image), -1, -1), patches], 1)
        y = self.before(x)
        x = x + self.mixed(y, y, y, need_weights=False)[0]
        x = x + self.narrow(functional.gelu(self.wide(self.norm(x))))
        return self.head(self.last(x)[:, 0])


class Grouped(nn.Module):
    """Norms over groups and over single maps, an attention gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.body, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.InstanceNorm2d(16)
        self.gate, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.mish(self.first(self.stem(image)))
        x = torch.relu(self.second(self.body(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module", params=[Tokens, Grouped])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Lower a net to both runtimes, in float and in int8."""
    out = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    images = torch.randn(24, 3, 16, 16)
    found = t2e.quantize(
        request.param(),
        (images[:4],),
        [*images],
        baseline=False,
        out=out / "out",
        store=Store(out / "store"),
    )
    assert [row.err for row in found.rows] == [None] * 4
    return Made(request.param, {(row.backend, row.scheme): row for row in found.rows})


def test_both_files_are_usable(made: Made) -> None:
    for backend in ("ort", "litert"):
        assert made.rows[backend, "fp32"].metrics["sqnr_db"] > 90
        assert made.rows[backend, "int8"].metrics["sqnr_db"] > 27


def test_both_runtimes_round_the_same(made: Made) -> None:
    """Not the inside of a norm or of a GELU, no residual stream, no score: layers alone."""
    integer = made.rows["litert", "int8"].facts["integer_ops"]
    gate = {} if made.kind is Tokens else {"MEAN": 2, "LOGISTIC": 1, "MUL": 1}
    assert {kind: integer[kind] for kind in integer if kind not in LAYERS} == gate
    shares = [made.rows[backend, "int8"].facts["int8_macs"] for backend in ("ort", "litert")]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)
    assert shares[0] > 85


def test_no_operator_parts_the_delegate_but_a_gather(made: Made) -> None:
    assert set(made.rows["litert", "int8"].facts["outside_ops"]) <= {"GATHER"}


def test_the_ranges_are_those_of_the_onnx(made: Made) -> None:
    """A constant among the tokens has a range of the token's rank, as the quantizer wants it."""
    assert made.rows["litert", "int8"].facts["ranges_matched"] == 100.0
    assert made.rows["litert", "int8"].facts["ranges_calibrated"] == []


def test_a_gelu_is_one_operator(made: Made) -> None:
    if made.kind is Tokens:
        assert made.rows["litert", "fp32"].facts["ops"]["GELU"] == 1
