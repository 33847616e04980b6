"""How a model is quantized: what calibrates, which operators stay in float, what is searched."""

from __future__ import annotations

from dataclasses import dataclass

from torchopt2edge._moved import takes_old_keywords
from torchopt2edge.errors import ConfigError
from torchopt2edge.quantize.histogram import OBSERVERS


@takes_old_keywords
@dataclass(frozen=True)
class Quantize:
    """How static ranges are decided.

    ``observer`` is one of `OBSERVERS` or ``auto``; ``equalize`` and ``bias_correction`` are
    True, False or ``auto`` (tried below ``poor_db`` of SQNR, the second below half of it);
    ``sensitivity`` ranks the operators
    by what quantizing each costs; ``max_drop`` (points of the task metric on held-out calibration
    samples) leaves as few MACs in float as keep it, judged on ``validation_samples``; ``exclude``
    names nodes that stay in float, ``*`` and ``?`` standing for any letters.
    """

    observer: str = "auto"
    equalize: bool | str = "auto"
    bias_correction: bool | str = "auto"
    poor_db: float = 20.0
    sensitivity: bool = False
    max_drop: float | None = None
    validation_samples: int = 512
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what there is not.

        Raises:
            ConfigError: names the choices.
        """
        known = ("auto", *OBSERVERS)
        if self.observer not in known:
            raise ConfigError(
                f"there is no observer {self.observer!r}", hint=f"one of {', '.join(known)}"
            )
        for name in ("equalize", "bias_correction"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ConfigError(
                    f"quantize.{name} is {getattr(self, name)!r}", hint="true, false or auto"
                )
