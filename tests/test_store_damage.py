"""What the store says when its files were damaged or cannot be written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchopt2edge.errors import StoreError
from torchopt2edge.store import Store

KEY = "ab" * 32


def note(out: Path) -> dict[str, Any]:
    (out / "note.txt").write_text("whole")
    return {}


def test_a_full_disk_is_said_so_for_a_writer_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's names the place in its own source."""

    def filling(out: Path) -> dict[str, Any]:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    with pytest.raises(RuntimeError, match="enforce"):
        Store(tmp_path).make(KEY, "note", filling)
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        Store(tmp_path).make(KEY, "note", filling)
    assert "enforce" not in str(caught.value)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1])


def flip(file: Path) -> None:
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_files_are_never_handed_out(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    made, _ = Store(tmp_path / "my store").make(KEY, "note", note)
    damage(made.path / "note.txt")
    with pytest.raises(StoreError, match="files were damaged") as caught:
        Store(tmp_path / "my store").make(KEY, "note", note)
    assert f"rm -r '{made.path}'" in str(caught.value)
