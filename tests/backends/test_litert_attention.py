"""Vision transformers in LiteRT: GELU as one operator, constants among the tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import torchopt2edge as t2e
from torchopt2edge.store import Store


class Tokens(nn.Module):
    """A vision transformer in small: a class token, LayerNorm, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)
        self.mixed = nn.MultiheadAttention(24, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(image), -1, -1), patches], 1)
        x = x + self.mixed(x, x, x, need_weights=False)[0]
        x = x + self.narrow(functional.gelu(self.wide(self.norm(x))))
        return self.head(x[:, 0])


def test_a_vision_transformer_has_an_int8_file(tmp_path: Path) -> None:
    """Of a token that is a constant the quantizer wants a range of the token's rank."""
    torch.manual_seed(0)
    images = torch.randn(24, 3, 16, 16)
    made = t2e.lower(
        Tokens(),
        (images[:4],),
        [*images],
        backends=("litert",),
        baseline=False,
        out=tmp_path / "out",
        store=Store(tmp_path / "store"),
    )
    assert [row.err for row in made.rows] == [None, None]
    floats, integers = made.rows
    assert floats.metrics["sqnr_db"] > 90
    assert floats.facts["ops"]["GELU"] == 1
    assert integers.metrics["sqnr_db"] > 20
    assert integers.facts["int8_macs"] == 100.0
