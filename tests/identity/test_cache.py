"""Identities of code on disk: used again, and never where a file changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from torchopt2edge.identity.cache import CodeCache
from torchopt2edge.identity.closure import Closure, Code, Node
from torchopt2edge.identity.files import Files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the source of a module."""
    path = tmp_path / "own.py"
    path.write_text("def run(): return 1\n")
    return path


def asked(cache: CodeCache, source: Path) -> tuple[Code, int]:
    """Return the code of a module, and how often it had to be read."""
    read = []
    closure = Closure({"own": source})

    def roots() -> list[Node]:
        read.append(source)
        return [*closure.at("own", "")]

    return cache.code_of(closure, roots, f"{source} own"), len(read)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, source: Path) -> None:
    cache = CodeCache(tmp_path / "cache")
    first, again = asked(cache, source), asked(cache, source)
    assert first == (again[0], 1)
    assert again[1] == 0
    assert asked(CodeCache(), source) == (first[0], 1)


def test_an_edited_file_is_read_again(tmp_path: Path, source: Path) -> None:
    cache = CodeCache(tmp_path / "cache")
    before, _ = asked(cache, source)
    source.write_text("def run(): return 2\n")
    after, read = asked(cache, source)
    assert read == 1
    assert after.digest != before.digest
    assert asked(cache, source) == (after, 0)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def emptied(file: Path) -> None:
    file.write_text("[]")


def older(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "algorithm": "older"}))


def unknown_file(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "files": {"/nowhere": "0"}}))


@pytest.mark.parametrize("damage", [cut, emptied, older, unknown_file])
def test_a_damaged_file_costs_time_alone(
    tmp_path: Path, source: Path, damage: Callable[[Path], None]
) -> None:
    cache = CodeCache(tmp_path / "cache")
    before, _ = asked(cache, source)
    (file,) = (tmp_path / "cache").iterdir()
    damage(file)
    assert asked(cache, source) == (before, 1)
    assert asked(cache, source) == (before, 0)


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").touch()
    cache = CodeCache(tmp_path / "file" / "cache")
    assert asked(cache, source)[1] == asked(cache, source)[1] == 1


C = """
/* A runner.
   It runs. */
#include "wire.h"
int main(void) { return say("// no comment", 'x'); } // a comment
"""


@pytest.mark.parametrize(
    ("name", "old", "new", "same"),
    [
        ("a.c", "It runs.", "It waits.", True),
        ("a.c", "// a comment", "", True),
        ("a.c", "\nint", "\n\n  int", True),
        ("a.c", "// no comment", "// none", False),
        ("a.c", "say", "tell", False),
        ("a.py", "# one", "# two", True),
        ("a.py", "import numpy", "import scipy", False),
        ("a.py", "np.ones", "np.zeros", False),
        ("a.py", "print(run())", "print(run)", False),
        ("a.mjs", "// one", "// two", False),
    ],
)
def test_files_that_compute(tmp_path: Path, name: str, old: str, new: str, same: bool) -> None:
    python = "import numpy as np\n\n\ndef run(): return np.ones(1)  # one\n\n\n"
    python += 'if __name__ == "__main__":\n    print(run())\n'
    text = {"a.c": C, "a.py": python, "a.mjs": "// one\n"}[name]
    assert old in text
    file = tmp_path / name
    file.write_text(text)
    before = Files((file,)).fingerprint()
    file.write_text(text.replace(old, new))
    assert (Files((file,)).fingerprint() == before) is same
