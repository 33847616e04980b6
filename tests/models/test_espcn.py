"""The net that enlarges images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import torchopt2edge as t2e
from torchopt2edge.converter import Environment
from torchopt2edge.errors import ModelError
from torchopt2edge.models import count
from torchopt2edge.models.espcn import espcn


def test_it_begins_as_a_repetition_of_pixels() -> None:
    net = espcn(scale=3, width=8, blocks=1).eval()
    with torch.no_grad():
        net.detail.weight.zero_()
        net.detail.bias.zero_()
        image = torch.rand(2, 3, 5, 7)
        wanted = image.repeat_interleave(3, 2).repeat_interleave(3, 3)
        torch.testing.assert_close(net(image), wanted)


def test_numbers_that_enlarge_nothing() -> None:
    for wrong in ({"scale": 1}, {"width": 0}, {"blocks": 0}):
        with pytest.raises(ModelError, match="no net enlarges"):
            espcn(**wrong)


@pytest.mark.slow
def test_the_articles_net_is_a_quarter_in_int8_in_both_runtimes(
    tmp_path: Path, sealed: Environment
) -> None:
    """45 MB of super-resolution net: 11 million weights, one byte each in int8."""
    torch.manual_seed(0)
    net = espcn(scale=2, width=264, blocks=9).eval()
    assert count.params(net) == pytest.approx(11.3e6, rel=0.01)
    images = [torch.rand(4, 3, 16, 16) for _ in range(4)]
    rows = t2e.quantize(
        net,
        (images[0],),
        images,
        task=t2e.tasks.super_resolution.SuperResolution(),
        baseline=False,
        out=tmp_path,
    ).rows
    sizes = {row.candidate: row.metrics["size_mb"] for row in rows if row.err is None}
    assert [row.err for row in rows] == [None] * 4
    for runtime in ("ort", "litert"):
        assert 44 < sizes[f"{runtime}-fp32"] < 47
        assert sizes[f"{runtime}-int8"] < 0.27 * sizes[f"{runtime}-fp32"]
    assert np.isfinite([row.metrics["sqnr_db"] for row in rows]).all()
