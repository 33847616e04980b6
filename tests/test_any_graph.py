"""Whatever graph comes in: every candidate is right or refused with a cause, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import torchopt2edge as t2e
from tests.quantize.graphs import saved
from tests.random_graphs import random_graph
from torchopt2edge.errors import EdgeError
from torchopt2edge.store import Store


@pytest.mark.parametrize("seed", range(40))
def test_a_random_graph(seed: int, tmp_path: Path) -> None:
    proto, samples = random_graph(seed)
    file = saved(proto, tmp_path / "net.onnx")
    try:
        found = t2e.quantize(
            file,
            None,
            [samples],
            backends=("ort",),
            schemes=("fp32", "int8"),
            store=Store(tmp_path / "store"),
            out=tmp_path / "out",
        )
    except EdgeError as error:
        pytest.fail(f"the float model was refused: {error}")
    rows = {row.scheme: row for row in found.rows}
    assert rows["fp32"].err is None, "a right file is not refused"
    if rows["int8"].err is not None:
        assert "SQNR" in str(rows["int8"].err) or "integers" in str(rows["int8"].err)
