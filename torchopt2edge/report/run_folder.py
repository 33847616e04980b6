"""A run's folder: rows, verdict and context as data, and the report rendered from them.

``rows.jsonl`` (one Measurement a line, every sample included), ``verdict.json``,
``context.json`` (title, stages, environment, decisions), ``report.html``, ``report.md``, and
``figures/`` with an SVG file per chart. Every file appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torchopt2edge.errors import ConfigError
from torchopt2edge.types import Measurement, Verdict

SCHEMA = 1
LARGEST = 2**30  # bytes of one file of a run
ROWS, VERDICT, CONTEXT = "rows.jsonl", "verdict.json", "context.json"
_EMPTY: Mapping[str, Any] = {}
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, IndexError)
_HINT = "free some space, or point the run at a folder you can write"


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
    """Write the data and the report of a run.

    Args:
        out: The folder, made when absent.
        rows: The run's rows.
        verdict: The verdict over them.
        title: The run's title.
        stages: ``{"name", "seconds", "cached", "facts"}`` of each stage.
        environment: What a reader needs to judge and repeat the run (``command``, ``device``,
            ``protocol``, ``versions`` …).
        decisions: How each model was quantized (`quantize.decide`), with its ``group``.

    Raises:
        ConfigError: The folder cannot be written; the error names where the rows are.
    """
    from torchopt2edge.report.figure.standalone import figure_files
    from torchopt2edge.report.html.run import render as render_html
    from torchopt2edge.report.markdown import render as render_markdown
    from torchopt2edge.report.run_report import RunReport

    context = {
        "schema": SCHEMA,
        "title": title,
        "stages": [dict(stage) for stage in stages],
        "environment": dict(environment),
        "decisions": [dict(decision) for decision in decisions],
    }
    data = {
        ROWS: "".join(f"{_row_text(row)}\n" for row in rows),
        VERDICT: _json(verdict.to_json(), indent=1),
        CONTEXT: _json(context, indent=1),
    }
    _put_data(out, data)  # first: a figure that fails must not lose an hour of measuring
    report = RunReport.of(rows, verdict, context)
    _put_all(
        out,
        {
            **figure_files(report.figures.values()),
            "report.md": render_markdown(report),
            "report.html": render_html(report),
        },
        hint=f"the rows are there: free some space, then torchopt2edge report run={out}",
    )


def read(out: Path) -> tuple[list[Measurement], Verdict, dict[str, Any]]:
    """Read the data of a run.

    Args:
        out: The run's folder.

    Returns:
        The rows, the verdict and the context (the keywords of `write`).

    Raises:
        ConfigError: It is not a run's folder, or a file in it is damaged.
    """
    rows = []
    for number, text in enumerate(read_text(out / ROWS).split("\n"), 1):
        if text.strip():
            try:
                rows.append(_row(json.loads(text)))
            except _DAMAGE as error:
                raise damaged(out / ROWS, f"line {number}") from error
    try:
        verdict = Verdict.from_json(_of_schema(json.loads(read_text(out / VERDICT)), out / VERDICT))
    except _DAMAGE as error:
        raise damaged(out / VERDICT, "its content") from error
    try:
        kept = _of_schema(json.loads(read_text(out / CONTEXT)), out / CONTEXT)
        context = {key: kept[key] for key in ("title", "stages", "environment", "decisions")}
    except _DAMAGE as error:
        raise damaged(out / CONTEXT, "its content") from error
    return rows, verdict, context


def _of_schema(data: Any, path: Path) -> Any:
    """Return what was read, unless a later release wrote it.

    Raises:
        ConfigError: its schema is not known here.
    """
    schema = data.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ConfigError(
            f"a file of the run has the schema {schema!r}, and this release knows up to {SCHEMA}",
            artifact=path,
            hint="read it with the release that wrote it: pip install --upgrade torchopt2edge",
        )
    return data


def read_text(path: Path) -> str:
    """Read a file that a run's folder must hold.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        ConfigError: There is no such file, or it is no text.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise damaged(path, "what is no file, or too large,")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"this is not the folder of a finished run: it has no {path.name}",
            artifact=path.parent,
            hint="give the folder that holds rows.jsonl: torchopt2edge report run=FOLDER",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, "its text") from error


def damaged(path: Path, part: str) -> ConfigError:
    """Return the error for a file of a run that cannot be read.

    Args:
        path: The file.
        part: Which part of it.

    Returns:
        The error to raise.
    """
    return ConfigError(
        f"a file of the run is damaged: {part} cannot be read",
        artifact=path,
        hint="restore the file from a copy, or run the measurement again",
    )


def _row_text(row: Measurement) -> str:
    """Return a row as JSON; its samples, many whole numbers, are written as they are."""
    data = {field.name: getattr(row, field.name) for field in fields(row)}
    known = {name: _strict(value) for name, value in data.items() if name != "latency_ns"}
    ordered = {name: known.get(name, value) for name, value in data.items()}
    return json.dumps(ordered, ensure_ascii=False, allow_nan=False, default=_strict)


def _json(data: object, indent: int | None = None) -> str:
    """Return strict JSON: readers other than Python's do not know ``Infinity``."""
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
    """Write files, each whole or not at all.

    Args:
        out: The folder, made when absent.
        files: By name a text, or plain data that is written as JSON.

    Raises:
        ConfigError: The folder cannot be written.
    """
    _put_all(
        out,
        {
            name: content if isinstance(content, str) else _json(content, indent=1)
            for name, content in files.items()
        },
    )


def _put_data(out: Path, files: Mapping[str, str]) -> None:
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
            hint=f"the rows are in {spare}: move it where there is room, then "
            "torchopt2edge report run=FOLDER",
        ) from error


def _put_all(out: Path, files: Mapping[str, str], hint: str = _HINT) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = out / name
            if path.parent != out and path.parent.is_symlink():
                path.parent.unlink()  # it leads out of the folder
            path.parent.mkdir(exist_ok=True)
            _put(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written: {error.strerror or error}",
            artifact=out,
            hint=hint,
        ) from error


def _put(path: Path, data: bytes) -> None:
    """Write beside the file, then rename: a reader sees the old file or the new one.

    The folder may be a stranger's: the name cannot be guessed, and a link there is not followed.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o666 & ~_umask())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return which permissions new files do not get; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
