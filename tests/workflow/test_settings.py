"""The settings of a run: one class, names resolved once, the device asked once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.bench.timing import TimingPlan
from torchopt2edge.devices.local import Local
from torchopt2edge.errors import ConfigError
from torchopt2edge.types import Facts
from torchopt2edge.workflow.settings import SETTINGS, Settings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Local]:
    """Return the devices that were asked for their facts, in order."""
    asked: list[Local] = []

    def facts(self: Local) -> Facts:
        asked.append(self)
        return {"arch": "aarch64", "cpu_flags": ["asimddp"]}

    monkeypatch.setattr(Local, "facts", facts)
    return asked


def test_every_keyword_is_a_field_and_every_field_but_one_is_a_keyword() -> None:
    assert {item.name for item in fields(Settings)} - {"machine"} == set(SETTINGS)


def test_names_become_objects_and_no_device_is_asked(asked: list[Local]) -> None:
    settings = Settings.of({"backends": ["ort"], "timing": "smoke", "out": "here"})
    assert settings.backends == (Ort(),)
    assert isinstance(settings.timing, TimingPlan)
    assert settings.out == Path("here")
    assert settings.device == Local()
    assert asked == []


def test_a_device_is_asked_once_and_decides_what_backends_write(asked: list[Local]) -> None:
    device = Local(threads=2)
    own = Settings.of({"backends": ["ort"], "device": device}).checked().on()
    assert [one is device for one in asked] == [True]
    assert own.machine["arch"] == "aarch64"
    assert own.backends == (Ort(isa="arm64"),)


def test_of_several_devices_each_is_asked_for_its_own_run(asked: list[Local]) -> None:
    first, second = Local(threads=1), Local(threads=2)
    settings = Settings.of({"devices": [first, second]}).checked()
    assert asked == []
    for device in settings.devices:
        assert settings.on(device, Path(str(device.threads))).device is device
    assert asked == [first, second]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"timin": "smoke"}, "did you mean timing"),
        ({"protocoll": "smoke"}, "did you mean timing"),
        ({"timing": "smok"}, "smoke"),
        ({"backends": ["ortt"]}, "ort"),
        ({"machine": {}}, "one of backends"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(given: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.of(given)
    assert hint in str(error.value.hint)
