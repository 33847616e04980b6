"""A config is composed once."""

from __future__ import annotations

from typing import Any

import hydra
import pytest

from torchopt2edge.cli.compose import compose_config
from torchopt2edge.cli.config_check import OverrideError


@pytest.mark.parametrize(
    ("command", "overrides", "right"),
    [
        ("compare", ["model=resnet8", "data=digits", "device.threads=2"], True),
        ("compare", ["protocl=quick"], False),
        ("optimize", ["stage.student.epoch=3"], False),
        ("bench", ["+device.anything=3"], False),
    ],
)
def test_a_config_is_composed_once(
    command: str, overrides: list[str], right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, compose = [], hydra.compose

    def counted(*given: Any, **more: Any) -> Any:
        count.append(given)
        return compose(*given, **more)

    monkeypatch.setattr(hydra, "compose", counted)
    if right:
        compose_config(command, overrides)
    else:
        with pytest.raises(OverrideError):
            compose_config(command, overrides)
    assert len(count) == 1
