"""What a net is traced to, and what its digest sees."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchopt2edge.errors import ExportError
from torchopt2edge.stages.torch_export import Trace, hushed, traced

X = (torch.linspace(-1, 1, 16).reshape(4, 4),)


class Plain(nn.Module):
    """A net with a setting that ``forward`` reads and nothing prints or saves."""

    def __init__(self, factor: float = 1.0, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 2)
        self.factor, self.act, self.loose = factor, act, torch.ones(2)
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.head(x) * self.factor) + self.loose + self.unsaved


def trace(net: nn.Module, inputs: tuple[Tensor, ...] = X) -> Trace:
    with traced(net, inputs) as made:
        return made


def test_the_same_net_has_the_same_digest_in_every_process() -> None:
    code = "from tests.stages.test_torch_export import *; print(trace(Plain()).digest)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == trace(Plain()).digest


def weighted(net: Plain) -> None:
    net.head.weight.data += 1


def buffered(net: Plain) -> None:
    net.unsaved += 1


def loosened(net: Plain) -> None:
    net.loose = torch.full((2,), 2.0)


@pytest.mark.parametrize("change", [weighted, buffered, loosened])
def test_a_digest_sees_every_number(change: Callable[[Plain], None]) -> None:
    net = Plain()
    before = trace(net).digest
    with torch.no_grad():
        change(net)
    assert trace(net).digest != before


def test_a_digest_sees_what_forward_reads_and_nothing_prints() -> None:
    """A net with another setting was taken for the first one, and its export given out for it."""
    nets = [Plain(), Plain(factor=2.0), Plain(act=torch.tanh), Plain(act=lambda x: x + 1)]
    assert len({trace(net).digest for net in nets}) == len(nets)
    assert len({repr(net) for net in nets}) == 1


def test_an_output_without_a_row_per_sample_fixes_the_batch() -> None:
    class WithAnchors(Plain):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": super().forward(x), "anchors": torch.ones(3)}

    found = trace(WithAnchors())
    assert "first axis is not the batch" in (found.static_reason or "")
    assert trace(Plain()).static_reason is None


class Scalar(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


class Complex(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(super().forward(x))


@pytest.mark.parametrize(
    ("net", "inputs", "said"),
    [
        (Plain().double(), (X[0].double(),), r"not float32: 'head.weight' is float64 \[Plain\]"),
        (Plain().half(), (X[0].half(),), r"'head.weight' is float16.*net.float\(\)"),
        (nn.ReLU(), (X[0].double(),), "'input' is float64"),
        (Complex(), X, "'output' is complex64.*view_as_real"),
        (Scalar(), X, "'output' is a single number"),
    ],
)
def test_numbers_that_no_file_takes_are_named(
    net: nn.Module, inputs: tuple[Tensor, ...], said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        trace(net, inputs)


def test_warnings_of_the_tracer_are_not_the_users() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with hushed():
            warnings.warn("attributes were assigned during export", UserWarning, stacklevel=1)
        warnings.warn("of the user", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["of the user"]


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if y.sum() > 0 else y


def test_control_flow_is_named_by_its_line_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = r"in test_torch_export.py, line \d+: return y \* 2 if y.sum\(\) > 0 else y .*torch.where"
    with pytest.raises(ExportError, match=said):
        trace(Branching())
    assert capfd.readouterr() == ("", "")
