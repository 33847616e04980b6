"""One set of ranges for every runtime: the integer files agree with each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.conftest import BACKENDS, NETS, RUNTIMES, Lower
from torchopt2edge.protocols import Sources
from torchopt2edge.types import SCHEMES
from torchopt2edge.verify import parity

FLOOR_DB = 30.0


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("pair", list(itertools.combinations(RUNTIMES, 2)), ids="-".join)
def test_integer_files_agree_with_each_other(
    net: str, pair: tuple[str, str], lowered: Lower
) -> None:
    one, other = (lowered(net, name, "int8") for name in pair)
    assert parity(*(found.open()(found.inputs(24)) for found in (one, other))).sqnr_db > FLOOR_DB


@pytest.mark.parametrize("backend", RUNTIMES)
def test_other_ranges_would_be_seen(
    backend: str, lowered: Lower, sources: Callable[[str, str], Sources], tmp_path: Path
) -> None:
    given = sources("tiny", backend)
    assert given.ranges is not None
    wider = {name: (8 * low, 8 * high) for name, (low, high) in given.ranges.bounds.items()}
    ranges = dataclasses.replace(given.ranges, bounds=wider)
    facts = BACKENDS[backend].lower(
        dataclasses.replace(given, ranges=ranges), SCHEMES["int8"], tmp_path
    )
    right = lowered("tiny", backend, "int8")
    wrong = dataclasses.replace(right, file=tmp_path / facts["file"])
    outputs = [found.open()(found.inputs(24)) for found in (right, wrong)]
    reference = right.reference(24)
    lost = parity(reference, outputs[0]).sqnr_db - parity(reference, outputs[1]).sqnr_db
    assert lost > 6, "three bits of each activation are gone"
