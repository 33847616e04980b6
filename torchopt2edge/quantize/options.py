"""The options of quantization with static ranges."""

from __future__ import annotations

from dataclasses import dataclass

from torchopt2edge._moved import takes_old_keywords
from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.histogram import OBSERVERS


@takes_old_keywords
@dataclass(frozen=True)
class Quantize:
    """How static ranges are decided.

    Attributes:
        observer: the observer, one of `OBSERVERS`, or ``auto``.
        equalize: True, False or ``auto`` (tried below ``poor_db`` of SQNR).
        bias_correction: True, False or ``auto`` (tried below half of ``poor_db``).
        poor_db: the SQNR in dB below which ``auto`` tries more.
        repair: whether operators are left in float where the SQNR stays below ``poor_db``.
        repair_macs: how many of the multiply-accumulates that may be, in per cent.
        sensitivity: whether the operators are ranked by what quantizing each of them costs.
        max_drop: leave as few MACs in float as keep the drop of the task metric within this many
            points on held-out calibration samples; None leaves none.
        validation_samples: how many samples ``max_drop`` is judged on.
        exclude: nodes that stay in float, ``*`` and ``?`` standing for any letters.
    """

    observer: str = "auto"
    equalize: bool | str = "auto"
    bias_correction: bool | str = "auto"
    poor_db: float = 20.0
    repair: bool = True
    repair_macs: float = 2.0
    sensitivity: bool = False
    max_drop: float | None = None
    validation_samples: int = 512
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse values that do not exist.

        Raises:
            ConfigError: it lists the choices.
        """
        known = ("auto", *OBSERVERS)
        if self.observer not in known:
            raise ConfigError(
                f"there is no observer {self.observer!r}", hint=f"one of {', '.join(known)}"
            )
        if not 0 <= self.repair_macs <= 100:
            raise ConfigError(
                f"quantize.repair_macs is {self.repair_macs}", hint="per cent, 0 to 100"
            )
        for name in ("equalize", "bias_correction"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ConfigError(
                    f"quantize.{name} is {getattr(self, name)!r}", hint="true, false or auto"
                )
