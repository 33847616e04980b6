"""The browser as a device: what it refuses, and whose runner it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from torchopt2edge.deploy.launch import runner_of
from torchopt2edge.devices.browser import Browser
from torchopt2edge.errors import DeviceError
from torchopt2edge.types import Candidate

MakeNet = Callable[..., Candidate]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threads": 0}, "cannot have 0 threads"),
        ({"runner": "native"}, "no runner 'native'"),
        ({"affinity": (4096,)}, "not all ours"),
        ({"affinity": ()}, "not all ours"),
        ({"affinity": (0,), "browser": "user"}, "cannot be kept on cores"),
        ({"browser": "/no/such/browser"}, "no browser: looked for /no/such/browser"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        Browser(**wrong).facts()  # type: ignore[arg-type]


def test_a_program_that_is_no_browser_is_told_in_one_line(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\nprintf 'tool (suite)\\nLicence: none\\nby nobody\\n'\n")
    program.chmod(0o755)
    with pytest.raises(DeviceError, match=r"or is none: tool \(suite\) \[.*--version"):
        Browser(browser=str(program)).facts()


def test_pytorch_does_not_run_there(net: MakeNet) -> None:
    candidate = net("a")
    assert runner_of(candidate, Browser()) == "web"
    assert runner_of(replace(candidate, backend="litert"), Browser()) == "web"
    assert runner_of(replace(candidate, backend="torch"), Browser()) == "python"
