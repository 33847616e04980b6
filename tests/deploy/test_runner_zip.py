"""The packed runner: small, reproducible, and enough by itself."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from torchopt2edge.deploy import runner_zip
from torchopt2edge.errors import StoreError
from torchopt2edge.runner.frames import encode
from torchopt2edge.types import Candidate

PYTHONS = Path("/opt/torchopt2edge-pythons")  # where provide_pythons.sh unpacks them
OLDEST = (3, 9)
# Modules whose functions run on the device; of the others only what importing them does.
RUN_THERE = ("backends", "errors", "interfaces", "preprocessing", "runner", "types")
HOST_ONLY = {
    "torchopt2edge.backends.litert.tensor_map",
    "torchopt2edge.backends.torch_cpu",
    "torchopt2edge.preprocessing.resample",
}
NEWER_CALLS = {"bit_count", "file_digest", "pairwise", "anext", "aiter"}
NEWER_KEYWORDS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only", "match_args"}}
NEWER_NAMES = {
    "typing": {"Self", "Unpack", "TypeAlias", "ParamSpec", "override", "assert_never", "Never"},
    "datetime": {"UTC"},
    "enum": {"StrEnum"},
    "tomllib": {"load", "loads"},
}


def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    first = runner_zip.runner_file(tmp_path)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert first.name == f"runner-{digest[:16]}.pyz"
    stamp = first.stat().st_mtime_ns
    assert runner_zip.runner_file(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_it_holds_no_stage_and_little_else() -> None:
    data = runner_zip.pack()
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert len(names) == len(set(names))
    assert {"__main__.py", "torchopt2edge/runner/runner.py", "torchopt2edge/runner/frames.py"} <= {
        *names
    }
    assert {
        "torchopt2edge/preprocessing/preprocess.py",
        "torchopt2edge/preprocessing/resample.py",
    } <= {*names}
    assert not [name for name in names if "/stages/" in name or name.endswith("/api.py")]
    assert len(data) < 300_000


def test_it_runs_where_neither_we_nor_torch_are(tmp_path: Path) -> None:
    """An interpreter whose only foreign package is numpy, by way of one link."""
    import numpy

    numpy_home = Path(numpy.__file__).parent
    site = tmp_path / "site"
    site.mkdir()
    (site / "numpy").symlink_to(numpy_home)
    if (libraries := numpy_home.with_name("numpy.libs")).is_dir():
        (site / "numpy.libs").symlink_to(libraries)
    code = f"""
import runpy, sys
sys.path.insert(0, {str(site)!r})
runpy.run_path({str(runner_zip.runner_file())!r}, run_name="__main__")
"""
    out = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        input=b'{"cmd": "sense"}\n{"cmd": "stop"}\n',
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert out.stderr == b""
    lines = out.stdout.decode().splitlines()
    assert lines[0].startswith('{"event": "sensed"')
    assert lines[1].startswith('{"event": "stopped"')


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be packed"):
        runner_zip.runner_file(tmp_path / "file")


def too_new(tree: ast.AST, inside: bool) -> Iterator[tuple[int, str]]:
    """Yield what Python 3.9 cannot do: when a module is imported, or in its functions as well."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            run = [*node.decorator_list, *defaults, *(node.body if inside else ())]
            yield from too_new(ast.List(run), inside)  # a node that holds them
            continue
        if isinstance(node, ast.AnnAssign):
            node = ast.Expr(node.value) if node.value else ast.Pass()
        yield from _newer(node)
        yield from too_new(node, inside)


def _newer(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Match | ast.TryStar):
        yield node.lineno, type(node).__name__
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = getattr(node, "module", None)
        taken = {alias.name for alias in node.names}
        if taken & NEWER_NAMES.get(module or "", set()) or "tomllib" in taken:
            yield node.lineno, ast.unparse(node)
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        keywords = {keyword.arg for keyword in node.keywords}
        if name in NEWER_CALLS or keywords & NEWER_KEYWORDS.get(name, set()):
            yield node.lineno, ast.unparse(node)
        if name in ("isinstance", "issubclass") and isinstance(node.args[1], ast.BinOp):
            yield node.lineno, ast.unparse(node)
    alias = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
    if alias and {"None", "str", "int"} & {ast.unparse(side) for side in (node.left, node.right)}:
        yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize(
    "text",
    [
        "a = int | None", "def f(x=str | None): ...", "from typing import Self", "import tomllib",
        "from datetime import UTC", "@dataclass(slots=True)\nclass A: ...",
        "match a:\n    case 1: ...", "a = [*zip(b, c, strict=True)]", "isinstance(a, int | str)",
        "class A:\n    b: int = zip(c, strict=True)",
    ],
)  # fmt: skip
def test_what_is_too_new_is_seen(text: str) -> None:
    assert [*too_new(ast.parse(text), False)]
    assert [*too_new(ast.parse(f"def f():\n    {text.replace(chr(10), chr(10) + '    ')}"), True)]
    assert not [
        *too_new(ast.parse("a: int | None = 3\ndef f(b: str | None) -> X | None: ..."), True)
    ]


@pytest.mark.parametrize("name", sorted(runner_zip.modules()))
def test_a_board_with_an_old_python_can_run_it(name: str) -> None:
    source = runner_zip.modules()[name].read_text()
    ast.parse(source, feature_version=OLDEST)
    room = name.split(".")[1] if "." in name else ""
    inside = room in RUN_THERE and name not in HOST_ONLY
    assert [*too_new(ast.parse(source), inside)] == []


def python(version: str) -> tuple[list[str], dict[str, str]]:
    """Return how another Python is started, by its own loader where it brings a libc."""
    place = PYTHONS / version
    if not (place / "complete").is_file():
        pytest.skip(f"there is no Python {version}; as root: tests/deploy/provide_pythons.sh")
    program, libraries = place / f"usr/bin/python{version}", place / "usr/lib/x86_64-linux-gnu"
    environment = {
        "HOME": str(Path.home()), "PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONHOME": str(place / "usr"), "PYTHONPATH": str(place / "site"),
    }  # fmt: skip
    loader = place / "usr/lib64/ld-linux-x86-64.so.2"
    if loader.exists():
        return [str(loader), "--library-path", str(libraries), str(program)], environment
    return [str(program)], {**environment, "LD_LIBRARY_PATH": str(libraries)}


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_another_python_measures_with_both_runtimes(
    net: Callable[..., Candidate], tflite: Candidate, version: str
) -> None:
    command, environment = python(version)
    for candidate, shape in ((net("a"), (2, 3, 16, 16)), (tflite, (1, 16, 16, 3))):
        given = {"x": np.ones(shape, np.float32)}
        opening = {"cmd": "open", "backend": candidate.backend, "file": str(candidate.file)}
        opening |= {"signature": candidate.signature.to_json(), "threads": 1}
        timing = {"cmd": "round", "min_samples": 3, "seconds": 0.0, "max_samples": 9}
        sent = [encode(opening), encode({"cmd": "call"}, given), encode({"cmd": "load"}, given)]
        sent += [encode(timing), encode({"cmd": "sense"}), encode({"cmd": "stop"})]
        done = subprocess.run(
            [*command, str(runner_zip.runner_file())],
            input=b"".join(sent), env=environment, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        _, *headers = done.stdout.split(b'{"event": "')  # outputs lie between them
        events = [part.partition(b'"')[0].decode() for part in headers]
        wanted = ["opened", "called", "loaded", "round", "sensed", "stopped"]
        assert events == wanted, done.stderr
        assert f'"python": "{version}.'.encode() in headers[0]
        assert b'"stable": true' in headers[3]
