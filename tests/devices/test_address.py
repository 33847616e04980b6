"""Devices by one word, and what they take over from the device of the config."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from torchopt2edge.devices.adb import Adb
from torchopt2edge.devices.address import named, words
from torchopt2edge.devices.local import Local
from torchopt2edge.devices.ssh import Ssh
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Device


@pytest.mark.parametrize(
    ("word", "device"),
    [
        ("local", Local()),
        ("ssh:pi", Ssh(host="pi")),
        ("ssh:me@192.168.1.7", Ssh(host="me@192.168.1.7")),
        ("ssh://me@pi:2222", Ssh(host="ssh://me@pi:2222")),
        ("adb", Adb()),
        ("adb:R58N30ABCDE", Adb(serial="R58N30ABCDE")),
        ("adb:192.168.1.9:5555", Adb(serial="192.168.1.9:5555")),
    ],
)
def test_a_word_is_a_device_and_survives_the_command_line(word: str, device: Device) -> None:
    assert named(word) == device
    (override,) = OverridesParser.create().parse_overrides([f"devices=[local,{word}]"])
    assert override.value() == ["local", word]


def test_every_option_of_the_group_is_a_word() -> None:
    assert {"local", "ssh", "adb", "browser"} <= set(words())
    assert {named(f"{word}:x").name for word in words() if word != "local"}


def test_what_was_asked_of_the_devices_is_taken_over() -> None:
    """And nothing else: the runner that a laptop has by itself is not one for a phone."""
    asked = Local(threads=2)
    assert named("adb", asked) == Adb(threads=2)
    assert named("adb", asked).runner == "native"
    assert named("ssh:pi", Local(runner="native")) == Ssh(host="pi", runner="native")
    like = Ssh(host="nano", config="lab", python="/venv/bin/python", workdir="/data/edge")
    assert named("ssh:pi", like) == Ssh(
        host="pi", config="lab", python="/venv/bin/python", workdir="/data/edge"
    )
    assert named("ssh", like) == like
    assert named("local", like) == Local()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("shh:pi", "no device 'shh'.*local.*ssh"),
        ("", "no device ''"),
        ("ssh", "a host is missing.*ssh:HOST"),
        ("ssh:", "a host is missing"),
        ("local:0", "no address"),
    ],
)
def test_a_word_that_is_none_is_explained(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        named(word)
