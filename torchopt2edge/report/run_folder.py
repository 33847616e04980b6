"""A run's folder: rows, verdict and context as data, and the report rendered from them.

``rows.jsonl`` (one Measurement a line, every sample included), ``verdict.json``,
``context.json`` (title, stages, environment, decisions), ``report.html``, ``report.md``,
``report.png``, ``report.svg``, and ``sensitivity.png`` where operators were ranked.
Every file appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.types import Measurement, Verdict

ROWS, VERDICT, CONTEXT = "rows.jsonl", "verdict.json", "context.json"
_EMPTY: Mapping[str, Any] = {}
_MEND = "free some space, or point the run at a folder you can write"


def write(
    out: Path,
    rows: Sequence[Measurement],
    verdict: Verdict,
    *,
    title: str,
    stages: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, Any] = _EMPTY,
    decisions: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the data and the report of a run into the folder ``out``, made when absent.

    A stage is ``{"name", "seconds", "cached", "facts"}``; ``environment`` is what the reader
    needs to judge and repeat the run (``command``, ``device``, ``protocol``, ``versions`` …);
    a decision is how one model was quantized (`quantize.decide`), with its ``group``.

    Raises:
        ConfigError: the folder cannot be written; names where the rows are.
    """
    from torchopt2edge.report.figure import sensitivity
    from torchopt2edge.report.figure.figure import draw
    from torchopt2edge.report.html import run as page
    from torchopt2edge.report.markdown import render

    context = {
        "schema": 1,
        "title": title,
        "stages": [dict(stage) for stage in stages],
        "environment": dict(environment),
        "decisions": [dict(decision) for decision in decisions],
    }
    files = {
        ROWS: "".join(f"{_line(row)}\n" for row in rows).encode(),
        VERDICT: _dumps(verdict.to_json(), indent=1).encode(),
        CONTEXT: _dumps(context, indent=1).encode(),
    }
    _put_data(out, files)  # first: a plot that fails must not lose an hour of measuring
    _put_all(
        out,
        {
            **draw(rows, verdict, title=title),
            **sensitivity.draw(decisions),
            "report.md": render(rows, verdict, context).encode(),
            "report.html": page.render(rows, verdict, context).encode(),
        },
        mend=f"the rows are there: free some space, then torchopt2edge report run={out}",
    )


def read(out: Path) -> tuple[list[Measurement], Verdict, dict[str, Any]]:
    """Return the rows, the verdict and the context (``write``'s keywords) of a run's folder.

    Raises:
        ConfigError: the folder is not a run's, or a file in it is damaged.
    """
    rows = []
    for number, text in enumerate(read_text(out / ROWS).split("\n"), 1):
        if text.strip():
            try:
                rows.append(_row(json.loads(text)))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise damaged(out / ROWS, f"line {number}") from error
    try:
        verdict = Verdict.from_json(json.loads(read_text(out / VERDICT)))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise damaged(out / VERDICT, "its content") from error
    try:
        kept = json.loads(read_text(out / CONTEXT))
        context = {key: kept[key] for key in ("title", "stages", "environment", "decisions")}
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(out / CONTEXT, "its content") from error
    return rows, verdict, context


def read_text(path: Path) -> str:
    """Return the text of a file that a run's folder must hold.

    Raises:
        ConfigError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"this is not the folder of a finished run: it has no {path.name}",
            artifact=path.parent,
            mend="give the folder that holds rows.jsonl: torchopt2edge report run=FOLDER",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, "its text") from error


def damaged(path: Path, part: str) -> ConfigError:
    """Return the error for a file of a run whose ``part`` cannot be read."""
    return ConfigError(
        f"a file of the run is damaged: {part} cannot be read",
        artifact=path,
        mend="restore the file from a copy, or run the measurement again",
    )


def _line(row: Measurement) -> str:
    """Return a row as JSON; its samples, whole numbers by the hundred thousand, go as they are."""
    data = {one.name: getattr(row, one.name) for one in fields(row)}
    known = {name: _strict(value) for name, value in data.items() if name != "latency_ns"}
    ordered = {name: known.get(name, value) for name, value in data.items()}
    return json.dumps(ordered, ensure_ascii=False, allow_nan=False, default=_strict)


def _dumps(data: object, indent: int | None = None) -> str:
    """Return strict JSON: other readers than Python's do not know ``Infinity``."""
    return json.dumps(_strict(data), indent=indent, ensure_ascii=False, allow_nan=False)


def _strict(value: object) -> object:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_strict(item) for item in value]
    item = getattr(value, "item", None)  # a numpy scalar
    return _strict(item()) if callable(item) else str(value)


def _row(data: dict[str, Any]) -> Measurement:
    row = Measurement.from_json(data)
    row.metrics.update({name: float(value) for name, value in row.metrics.items()})
    return row


def put(out: Path, files: Mapping[str, str | Mapping[str, Any]]) -> None:
    """Write texts, and plain data as JSON, each whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    made = {
        name: held if isinstance(held, str) else _dumps(held, indent=1)
        for name, held in files.items()
    }
    _put_all(out, {name: text.encode() for name, text in made.items()})


def _put_data(out: Path, files: Mapping[str, bytes]) -> None:
    """Write what was measured; where the folder has no room for it, into a temporary one."""
    try:
        _put_all(out, files)
    except ConfigError as error:
        try:
            spare = Path(tempfile.mkdtemp(prefix="torchopt2edge-"))
        except OSError:
            raise error from error.__cause__
        _put_all(spare, files, f"free some space there or in {out}")
        raise ConfigError(
            error.what,
            artifact=out,
            mend=f"the rows are in {spare}: move it where there is room, then "
            "torchopt2edge report run=FOLDER",
        ) from error


def _put_all(out: Path, files: Mapping[str, bytes], mend: str = _MEND) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _put(out / name, data)
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written: {error.strerror or error}",
            artifact=out,
            mend=mend,
        ) from error


def _put(path: Path, data: bytes) -> None:
    """Write beside the file, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
