"""The JSON Schemas of a run's files, for programs in other languages that read them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``verdict.json``."""
    return _read("verdict.schema.json")


def devices_schema() -> dict[str, Any]:
    """Return the JSON Schema of the ``verdict.json`` above the folders of several devices."""
    return _read("devices.schema.json")


def row_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of ``rows.jsonl``."""
    whole = schema()
    return {"$schema": whole["$schema"], "$ref": "#/$defs/row", "$defs": whole["$defs"]}


def _read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        files("torchopt2edge.report").joinpath(name).read_text("utf-8")
    )
    return loaded
