"""The folder of a stranger's run: it may be wrong, and must not do anything else."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.full_run import full_run
from torchopt2edge import report
from torchopt2edge.cli.maintenance import render
from torchopt2edge.errors import ConfigError, EdgeError

ODD: tuple[Any, ...] = (
    *(None, True, -1, 10**30, 1.5, "", "x" * 5000, "\x1b[31m<script>", [], {}),
    *([None], [[]], {"a": {}}, "NaN", float("inf")),
)
FILES = ("rows.jsonl", "verdict.json", "context.json")


@pytest.fixture
def folder(run: tuple[Any, Any], tmp_path: Path) -> Path:
    """Return a folder as a run writes it."""
    rows, verdict, context = full_run(*run)
    report.write(tmp_path / "given", rows, verdict, **context)
    return tmp_path / "given"


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk the paths of everything in plain data, but for single samples."""
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data[:3])
    for key, value in items:
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def edited(text: str, chance: random.Random) -> str:
    """Return JSON in which one place holds something odd, or is gone."""
    data = json.loads(text)
    changed = copy.deepcopy(data)
    *parents, last = chance.choice(list(places(data)))
    inside = changed
    for key in parents:
        inside = inside[key]
    if chance.random() < 0.2:
        del inside[last]
    else:
        inside[last] = chance.choice(ODD)
    return json.dumps(changed)


@pytest.mark.parametrize("seed", range(40))
def test_an_edited_folder_is_rendered_or_refused(seed: int, folder: Path, tmp_path: Path) -> None:
    chance = random.Random(seed)
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    file = copied / chance.choice(FILES)
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    at = chance.randrange(len(lines))
    lines[at] = edited(lines[at], chance)
    file.write_text("\n".join(lines))
    own = (folder / "report.html").read_text().count("<script>")
    with contextlib.suppress(EdgeError):  # refused; anything else is a traceback
        render([str(copied)], None, None)
    with contextlib.suppress(EdgeError):
        render([str(folder), str(copied)], "5%", str(tmp_path / "out"))
    assert (copied / "report.html").read_text().count("<script>") == own


def test_a_link_at_a_temporary_name_is_not_followed(folder: Path, tmp_path: Path) -> None:
    copied, mine = tmp_path / "run", tmp_path / "mine.txt"
    shutil.copytree(folder, copied)
    mine.write_text("mine")
    for name in ("report.md", "report.html", "rows.jsonl"):
        (copied / f".{name}-{os.getpid()}").symlink_to(mine)
    for name in ("report.md", "report.html"):
        (copied / name).unlink()
        (copied / name).symlink_to(mine)
    render([str(copied)], None, None)
    assert mine.read_text() == "mine"
    assert (copied / "report.md").is_file()
    assert not (copied / "report.md").is_symlink()


def test_a_linked_folder_of_figures_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    copied, mine = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "figures")
    mine.mkdir()
    (copied / "figures").symlink_to(mine)
    render([str(copied)], None, None)
    assert not list(mine.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_not_read(name: str, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    (copied / name).unlink()
    (copied / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=name):
        render([str(copied)], None, None)


@pytest.mark.parametrize("name", ["verdict.json", "context.json"])
@pytest.mark.parametrize("schema", [99, "new", None])
def test_a_later_schema_is_refused_by_name(
    name: str, schema: Any, folder: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    data = json.loads((copied / name).read_text())
    (copied / name).write_text(json.dumps({**data, "schema": schema}))
    with pytest.raises(ConfigError, match="schema"):
        render([str(copied)], None, None)
