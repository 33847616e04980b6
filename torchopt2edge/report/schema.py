"""The JSON Schemas of a run's files, for programs in other languages that read them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``verdict.json``."""
    text = files("torchopt2edge.report").joinpath("verdict.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def row_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of ``rows.jsonl``."""
    whole = schema()
    return {"$schema": whole["$schema"], "$ref": "#/$defs/row", "$defs": whole["$defs"]}
