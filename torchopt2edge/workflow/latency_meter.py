"""How fast a net's files are, asked while it is being cut: the harness as a search sees it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torchopt2edge import devices
from torchopt2edge._moved import takes_old_keywords
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.errors import BenchError, ConfigError
from torchopt2edge.interfaces import Backend, Device, Profile
from torchopt2edge.workflow import comparison
from torchopt2edge.workflow.inputs import resolved
from torchopt2edge.workflow.settings import SettingsArgs

if TYPE_CHECKING:
    from torch import Tensor, nn

_SAMPLES = 32  # normal noise, for ranges and for the check: latency does not hang on the values
_RUNS = 30


@takes_old_keywords
@dataclass(frozen=True)
class Meter:
    """Exports, lowers and times a net: the `torchopt2edge.interfaces.Meter` of a search by latency.

    ``backends`` are those of the run, by name, or names alone. Nothing is scored, and int8 ranges
    are those of noise: only the time is asked for.
    """

    device: Device = field(default_factory=devices.Local)
    backends: Mapping[str, Backend] | Sequence[str] = ("ort", "litert")
    timing: str | TimingPlan = "smoke"

    def measure(
        self, net: nn.Module, shape: tuple[int, ...], where: str
    ) -> tuple[float, float, float]:
        """Return the median latency in milliseconds of the file ``where``, and its interval.

        Raises:
            BenchError: it cannot be made or timed.
        """
        backend, scheme = self._where(where)
        with tempfile.TemporaryDirectory() as out:
            settings: SettingsArgs = {
                "backends": [backend],
                "schemes": [scheme],
                "device": self.device,
                "timing": self.timing,
                "baseline": False,
                "out": out,
            }
            calibration = [_noise(shape, _SAMPLES)]
            entry, data, options = resolved(net, (_noise(shape, 4),), calibration, None, settings)
            rows, _ = comparison.compare([entry], data, options.on())
        row = rows[0]
        if row.err is not None or not row.latency_ns:
            raise BenchError(f"{where} cannot be timed: {row.err}", hint="another file to aim at")
        found = row.metrics
        return found["latency_ms"], found["latency_low_ms"], found["latency_high_ms"]

    def profile(self, net: nn.Module, shape: tuple[int, ...], where: str) -> Profile:
        """Return where the time goes, by layer.

        The shares are those of ONNX Runtime's profile of the float graph, whose convolutions and
        products are matched to the layers in the order they run; the sum is what ``where`` is
        measured at. Where the two do not match, time is shared by multiply-accumulates.
        """
        from torchopt2edge.models import count

        whole, _, _ = self.measure(net, shape, where)
        layers = count.layers(net, shape)
        with tempfile.TemporaryDirectory() as out:
            shares, rest = _profiled(net, shape, Path(out))
        if shares is None or len(shares) != len(layers):
            macs = {name: float(layer.macs) for name, layer in layers.items()}
            total = max(1.0, sum(macs.values()))
            return Profile({name: whole * value / total for name, value in macs.items()}, 0.0)
        total = sum(shares) + rest
        named = dict(zip(layers, (whole * share / total for share in shares), strict=True))
        return Profile(named, whole * rest / total)

    def fingerprint(self) -> str:
        """Return what the measurements hang on besides the fields: the machine's processor."""
        return hashlib.sha256(str(self.device.facts().get("cpu")).encode()).hexdigest()[:16]

    def _where(self, where: str) -> tuple[Backend | str, str]:
        name, _, scheme = where.partition("-")
        known = list(self.backends)
        if name not in known:
            raise ConfigError(
                f"there is no backend {name!r} to be fast in", hint=f"one of {', '.join(known)}"
            )
        return (self.backends[name] if isinstance(self.backends, Mapping) else name), scheme


def _noise(shape: tuple[int, ...], count: int) -> Tensor:
    import torch

    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def _profiled(
    net: nn.Module, shape: tuple[int, ...], out: Path
) -> tuple[list[float] | None, float]:
    """Return the time of every layer in the order they run, and of all else; None: no match."""
    from torchopt2edge.backends.ort.profile import profile
    from torchopt2edge.stages.export import export_module
    from torchopt2edge.workflow.calibration import signature_in

    export_module(net, (_noise(shape, 4),), out)
    name = signature_in(out).inputs[0].file_name
    kernels = profile(out / "model.onnx", 1, {name: _noise(shape, 1).numpy()}, _RUNS)
    layers = [op["ms"] for op in kernels if op["type"] in ("Conv", "FusedConv", "Gemm", "MatMul")]
    rest = sum(op["ms"] for op in kernels) - sum(layers)
    return layers or None, rest
