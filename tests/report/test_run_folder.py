from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.disk import full_disk
from torchopt2edge.errors import ConfigError
from torchopt2edge.report import read, write
from torchopt2edge.types import Measurement, Verdict

DATA = {"rows.jsonl", "verdict.json", "context.json"}
FILES = {*DATA, "report.html", "report.md"}
FIGURES = {"trade-off", "latency", "distribution", "rounds", "accuracy", "file-size", "memory"}


def files_of(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_read_returns_what_write_was_given(run, tmp_path) -> None:
    rows, verdict = run
    context = {
        "title": "digits",
        "stages": [{"name": "train", "seconds": 1.5, "facts": {"params": 3}}],
        "environment": {"command": "x", "versions": {"torch": "2.14.1"}},
        "decisions": [{"group": "", "origin": "calibrated:minmax"}],
    }
    write(tmp_path / "a" / "run", rows, verdict, **context)
    figures = {f"figures/{name}.svg" for name in FIGURES}
    assert files_of(tmp_path / "a" / "run") == FILES | figures
    assert read(tmp_path / "a" / "run") == (rows, verdict, context)


def test_rendering_again_gives_the_same_files(run, tmp_path) -> None:
    write(tmp_path / "one", run[0][-2:], run[1], title="digits")
    rows, verdict, context = read(tmp_path / "one")
    write(tmp_path / "two", rows, verdict, **context)
    names = files_of(tmp_path / "one")
    assert len(names) > len(FILES)
    for name in names:
        first, second = ((tmp_path / run / name).read_bytes() for run in ("one", "two"))
        assert first == second, name


def test_every_sample_is_kept_and_every_line_is_json(run, tmp_path) -> None:
    rows, verdict = run[0][:2], run[1]
    write(tmp_path, rows, verdict, title="digits")
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [len(row["latency_ns"]) for row in kept] == [len(row.latency_ns) for row in rows]
    assert kept[0]["latency_ns"] == rows[0].latency_ns
    assert json.loads((tmp_path / "verdict.json").read_text())["schema"] == 1


def test_what_json_does_not_know_survives(make_row, tmp_path) -> None:
    row = make_row("ort-fp32", scale=np.float32(0.5), path=tmp_path, odd="line\u2028sep")
    row.metrics["sqnr_db"] = math.inf
    write(tmp_path, [row], Verdict(None), title="t")
    text = (tmp_path / "rows.jsonl").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (back,), _, _ = read(tmp_path)
    assert back.metrics == row.metrics
    assert back.facts["scale"] == 0.5
    assert back.facts["odd"] == "line\u2028sep"


def test_write_replaces_an_older_report_and_leaves_no_litter(written, make_row, tmp_path) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    write(tmp_path, [make_row("ort-fp32")], Verdict(None), title="new")
    rows, _, context = read(tmp_path)
    assert [row.candidate for row in rows] == ["ort-fp32"]
    assert context["title"] == "new"
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "figures"}


def test_a_folder_that_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a finished run") as caught:
        read(tmp_path / "nowhere")
    assert "torchopt2edge report run=" in (caught.value.hint or "")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """One written run, which a test copies before it damages it."""
    place = tmp_path_factory.mktemp("written")
    write(place, [Measurement("ort-fp32", "ort", "fp32", err="crash")], Verdict(None), title="t")
    return place


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '{"candidate": "a"'),
        ("rows.jsonl", '{"candidate": "a"}'),
        ("rows.jsonl", "[1]"),
        ("verdict.json", "{}"),
        ("verdict.json", "nonsense"),
        ("context.json", '{"title": 1}'),
        ("context.json", "[]"),
    ],
)
def test_a_damaged_file_is_named(written, tmp_path, name: str, content: str) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match="damaged") as caught:
        read(tmp_path)
    assert caught.value.artifact == str(tmp_path / name)
    assert caught.value.hint


def test_bytes_that_are_no_text_are_damage(written, tmp_path) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="damaged"):
        read(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(run, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        write(tmp_path / "file" / "run", *run, title="digits")
    assert caught.value.hint


def test_a_killed_rename_leaves_the_old_file(written, run, tmp_path, monkeypatch) -> None:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)

    def killed(self: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, *run, title="new")
    monkeypatch.undo()
    assert read(tmp_path)[2]["title"] == "t"
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_files_are_as_readable_as_the_users_other_files(written, tmp_path) -> None:
    (tmp_path / "other").write_text("")
    assert (written / "report.md").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_full_disk_keeps_what_was_measured(make_row, run, tmp_path, monkeypatch) -> None:
    """Where the report does not fit the rows do; where not even they do, another folder does."""
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    with full_disk(tmp_path / "small") as folder:
        row = make_row("ort-fp32")
        with pytest.raises(ConfigError, match="No space left") as caught:
            write(folder, [row], Verdict(None), title="t")
        assert caught.value.artifact == str(folder)
        assert f"torchopt2edge report run={folder}" in str(caught.value.hint)
        assert read(folder)[0] == [row]
        assert not [*folder.glob(".*")]
        assert not [*spare.iterdir()]
        many = [make_row(f"ort-fp32-{at}") for at in range(60)]
        with pytest.raises(ConfigError, match="No space left") as caught:
            write(folder, many, Verdict(None), title="t")
        assert caught.value.artifact == str(folder)
        (kept,) = spare.iterdir()
        assert f"the rows are in {kept}" in str(caught.value.hint)
        assert read(kept)[0] == many
        assert read(folder)[0] == [row]  # the older run is whole
