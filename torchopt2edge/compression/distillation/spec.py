"""Who teaches and how: values that the stages and `compress` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchopt2edge.compression.distillation.terms import Term
from torchopt2edge.errors import ConfigError

Losses = str | Term | Sequence[str | Term]


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What is learned from a teacher, beside what the data says.

    ``loss`` is a name (``kd``, ``dkd``, ``dist``, ``output``), a term of `terms`
    (those of features, such as ``Hint``, name their layers), or several. The loss of a batch is
    ``alpha`` times the sum of the terms plus 1 - ``alpha`` times the task's own; samples without
    a target have the terms alone. ``temperature`` is that of ``kd`` and ``dkd`` given by name.
    ``cache`` keeps what the teacher said of every view of every sample on disk: worth it with
    ``views``, or when several students learn the same.
    """

    loss: Losses = "kd"
    temperature: float = 4.0
    alpha: float = 0.7
    cache: bool = False

    def check_teaching(self) -> None:
        """Refuse numbers that cannot work.

        Raises:
            ConfigError: it names them.
        """
        if self.temperature <= 0 or not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"temperature={self.temperature}, alpha={self.alpha} cannot be distilled with",
                hint="a temperature above 0 and an alpha from 0 to 1",
            )


@dataclass(frozen=True)
class Distill:
    """Learn from ``teacher`` (a module, or several whose outputs are averaged) with ``loss``.

    The other fields are those of `Teaching`; a loop of one's own has no cache.
    """

    teacher: Any
    loss: Losses = "kd"
    temperature: float = 4.0
    alpha: float = 0.7

    @property
    def teaching(self) -> Teaching:
        """The same without the teacher."""
        return Teaching(loss=self.loss, temperature=self.temperature, alpha=self.alpha)

    @property
    def teachers(self) -> list[Any]:
        """The modules that teach."""
        return list(self.teacher) if isinstance(self.teacher, list | tuple) else [self.teacher]
