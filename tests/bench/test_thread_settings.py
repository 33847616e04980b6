"""The settings that every file is tried with: threads, cores, classes of cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchopt2edge.bench.child_session import as_set
from torchopt2edge.bench.harness import measure
from torchopt2edge.bench.thread_settings import Bench
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices import Local
from torchopt2edge.devices.fake import Fake
from torchopt2edge.errors import ConfigError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]
Sample = dict[str, np.ndarray]


def test_each_file_is_tried_on_each_class(net: MakeNet) -> None:
    tried = Bench(threads=(1, 2), cores=["big", "little"]).variants([net("a")])
    assert [one.id for one in tried] == ["a@1t-big", "a@1t-little", "a@2t-big", "a@2t-little"]
    device = as_set(Fake(affinity=(0,)), tried[1])
    assert (device.threads, device.cores, device.affinity) == (1, "little", None)  # type: ignore[attr-defined]
    assert [one.id for one in Bench().variants([net("a")])] == ["a"]


def test_more_threads_than_cores_are_not_tried(net: MakeNet) -> None:
    """They stall each other, and one row that stalls leaves the whole run without a winner."""
    tried = Bench(threads=(1, 2), affinity=((0,), (0, 1))).variants([net("a")])
    assert [one.id for one in tried] == ["a@1t-c0", "a@1t-c0.1", "a@2t-c0.1"]
    with pytest.raises(ConfigError, match="more threads than cores"):
        Bench(threads=(2,), affinity=((0,), (1,))).variants([net("a")])


@pytest.mark.parametrize("tried", [[], ["fast"], "big", ["big", ""]])
def test_what_is_no_class_is_refused(net: MakeNet, tried: Any) -> None:
    with pytest.raises(ConfigError, match=r"setting of classes.*bench\.cores=\[big,mid,little\]"):
        Bench(cores=tried).variants([net("a")])


def test_cores_are_named_once(net: MakeNet) -> None:
    with pytest.raises(ConfigError, match="both name cores"):
        Bench(cores=["big"], affinity=((0,),)).variants([net("a")])


def test_a_class_reaches_the_process(
    net: MakeNet, sample: Sample, brief: TimingPlan, tmp_path: Path
) -> None:
    known = Local().facts()["core_classes"]
    entered = Bench(cores=["big", "mid"]).variants([net("a")])
    big, mid = measure(entered, lambda _: sample, Local(), brief, tmp_path)
    if known:
        assert big.facts["affinity"] == known[0]["cores"]
        assert big.facts["setting"] == {"cores": "big", "affinity": None}
    else:
        assert "does not tell its cores apart" in str(big.err)
    if "mid" not in {one["name"] for one in known}:
        assert "no class of cores 'mid'" in str(mid.err)
