"""A device by one word, as `devices=` takes it: ``local``, ``ssh:HOST``, ``adb:SERIAL``."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from torchopt2edge.conf import registry
from torchopt2edge.errors import ConfigError
from torchopt2edge.interfaces import Device

_ADDRESS = ("host", "serial", "adb")  # the field that what follows the colon goes into


def named(word: str, like: Device | None = None) -> Device:
    """Return the device of a word: an option of the group ``device``, and its address.

    ``ssh://user@host:port`` is a word too. Of ``like`` it takes over what was asked of that
    device (threads, runner, the folder …), where it has the same field; what ``like`` has by
    itself asks for nothing.

    Raises:
        ConfigError: there is no such device, it takes no address, or it needs one.
    """
    kind, _, address = word.strip().partition(":")
    if address.startswith("//"):
        address = word.strip()
    cls = _class(kind, word)
    known = {field.name for field in fields(cls)}
    given = {name: value for name, value in _asked(like).items() if name in known}
    place = next((name for name in _ADDRESS if name in known), None)
    if address:
        if place is None:
            raise ConfigError(f"a device {kind!r} has no address", artifact=word, hint=kind)
        given[place] = address
    if place == "host" and not given.get(place):
        raise ConfigError("a host is missing", artifact=word, hint=f"{kind}:HOST")
    made: Device = cls(**given)
    return made


def words() -> list[str]:
    """Return the kinds of devices: those that have a yaml in ``conf/device``."""
    known: list[str] = registry.options("device")
    return known


def _class(kind: str, word: str) -> Any:
    known = words()
    if kind not in known:
        raise ConfigError(
            f"there is no device {kind!r}",
            artifact=word,
            hint=f"one of {', '.join(known)}, with its address: ssh:HOST, adb:SERIAL",
        )
    return registry.target(registry.load("device", kind)["_target_"])


def _asked(like: Device | None) -> dict[str, Any]:
    """Return the fields that differ from what the class has by itself."""
    found = fields(like) if like is not None else ()  # type: ignore[arg-type]
    return {
        field.name: value
        for field in found
        if field.init and field.compare and (value := getattr(like, field.name)) != _default(field)
    }


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
