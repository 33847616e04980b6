"""How often the shared graph is read from disk: once to decide, once for each group of schemes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.hub import Made
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.quantize.options import Quantize
from torchopt2edge.store import Store
from torchopt2edge.types import Candidate
from torchopt2edge.workflow import calibration, lowering
from torchopt2edge.workflow.progress import LogProgress


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of ``onnx.load`` by file name."""
    counts: Counter[str] = Counter()
    load = onnx.load

    def counted(file: Any, *args: Any, **settings: Any) -> onnx.ModelProto:
        counts[Path(str(file)).name] += 1
        return load(file, *args, **settings)

    monkeypatch.setattr(onnx, "load", counted)
    return counts


def test_a_decision_loads_the_graph_once(tiny: Made, tmp_path: Path, loads: Counter[str]) -> None:
    options = Quantize(equalize=True, bias_correction=True, max_drop=100.0)
    decided = calibration.decide(tiny.graph, tiny.samples, Store(tmp_path), options)
    assert decided.facts["mixed"]["met"]
    assert loads["model.onnx"] == 1


def test_all_schemes_share_what_is_loaded(tiny: Made, tmp_path: Path, loads: Counter[str]) -> None:
    store, backend = Store(tmp_path), Ort()
    decided = calibration.decide(tiny.graph, tiny.samples, store, Quantize(observer="minmax"))
    loads.clear()
    bases = lowering.start_bases(tiny.graph, [backend], store)
    made = lowering.lower_all(tiny.graph, "", bases, backend.schemes, decided, store, LogProgress())
    assert all(isinstance(candidate, Candidate) for candidate in made)
    assert loads["model.onnx"] == 2, "once for float arithmetic, once with ranges"
