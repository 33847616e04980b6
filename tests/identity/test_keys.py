"""Which keys an edit of the package changes: those of what depends on the line, and no other."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.identity import edits
from torchopt2edge.backends.file_session import FileSession
from torchopt2edge.backends.litert.recipe import quantize as quantize_tflite
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.ort.inspect import read_back
from torchopt2edge.backends.torch_cpu import TorchCpu
from torchopt2edge.bench.child_session import ChildSession
from torchopt2edge.bench.profile import costliest
from torchopt2edge.cli import doctor, main
from torchopt2edge.compression.distillation.loss import Distillation
from torchopt2edge.compression.pruning.explain import explain
from torchopt2edge.compression.pruning.importance import scorer
from torchopt2edge.compression.sparsity.mask import masks_of
from torchopt2edge.converter.rewrite import rewrite
from torchopt2edge.data.digits import Digits
from torchopt2edge.deploy.native_build import SOURCE
from torchopt2edge.errors import EdgeError
from torchopt2edge.evaluation import host_check, parity, score
from torchopt2edge.models.cifar_resnet import cifar_resnet
from torchopt2edge.preprocessing import resample
from torchopt2edge.quantize.graph.canonicalize import canonicalize
from torchopt2edge.quantize.histogram import Histogram
from torchopt2edge.quantize.qdq_writer import quantize_graph
from torchopt2edge.report.markdown import render
from torchopt2edge.runner.runner import Runner
from torchopt2edge.stages.qat_session import QatSession
from torchopt2edge.tasks.classification import Classification
from torchopt2edge.training.fit import fit
from torchopt2edge.training.loggers import open_logbook
from torchopt2edge.verdict import decide
from torchopt2edge.workflow.progress import LogProgress

Keys = dict[str, str]
Ask = Callable[[Mapping[str, str]], Keys]

SCORES, PARITIES = ["score *"], ["parity *"]
MADE_FROM = ("lowered {}", "parity {}*", "score {}*")  # of a file, what is kept
ORT, LITERT = ([one.format(f"{name}-*") for one in MADE_FROM] for name in ("ort", "litert"))
NEED_RANGES = ("ort-int8", "ort-int8_io", "litert-int8", "litert-int8_io", "litert-int16x8")
KINDS = ("lowered", "parity", "score")
STATIC = ["* native", *(f"{kind} {name}" for name in NEED_RANGES for kind in KINDS)]
ALL_FILES = [*ORT, *LITERT, *(one.format("torch-*") for one in MADE_FROM)]

CHANGED: list[tuple[Callable[..., Any] | type, list[str]]] = [
    (quantize_graph, ["quantization mixed", *ORT]),
    (read_back, ORT),
    (quantize_tflite, LITERT),
    (rewrite, ["tflite", *LITERT]),
    (Histogram, ["quantization", "quantization mixed", *STATIC]),
    (
        canonicalize,
        ["stage qat", "stage export", "graph", "quantization*", "reference", "tflite", *ALL_FILES],
    ),
    (resample.resized, ["stage *", "reference", *PARITIES, *SCORES]),
    (FileSession.restore, ["reference", *PARITIES, *SCORES]),
    (TorchCpu.open, ["parity torch-*", "score torch-*"]),
    (parity.parity, PARITIES),
    (score.score, SCORES),
    (Classification.metric, ["stage *", *SCORES]),
    (Classification.loss, ["stage *"]),
    (Digits.split, ["stage *", *SCORES]),
    (cifar_resnet, ["stage *"]),
    (fit, ["stage *"]),
    (Distillation, [f"stage {name}" for name in ("student", "pruned", "sparse", "qat", "export")]),
    (scorer, ["stage pruned", "stage export"]),
    (masks_of, ["stage sparse", "stage qat"]),
    (QatSession, ["stage qat"]),
]
UNCHANGED: list[Callable[..., Any] | type] = [
    main.entry,
    render,
    EdgeError.__str__,
    LogProgress,
    open_logbook,
    explain,
    doctor.examine,
    decide.decide,
    costliest,
    ChildSession.round,
    Runner.round,
    Ort.profile,
    host_check.score_beside,  # nothing is scored on another machine here
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Return what asks a process for the keys of a run after an edit of a copy of the package."""
    root, scratch = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("scratch")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(edits.PACKAGE, root / edits.PACKAGE.name, ignore=ignored)
    script = Path(__file__).with_name("keys_of_a_run.py")
    own = {"PYTHONPATH": str(root), "TORCHOPT2EDGE_CACHE": str(scratch / "cache")}
    with subprocess.Popen(
        [sys.executable, "-P", "-B", str(script), str(scratch)],
        env={**os.environ, **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def keys(texts: Mapping[str, str]) -> Keys:
            process.stdin.write(json.dumps({"texts": texts}) + "\n")
            process.stdin.flush()
            answer: Keys = json.loads(process.stdout.readline())
            return answer

        yield keys


@pytest.fixture(scope="module")
def before(ask: Ask) -> Keys:
    """Return the keys of the package as it is."""
    return ask({})


def changed(before: Keys, after: Keys) -> list[str]:
    """Name what has another key."""
    assert after.keys() == before.keys()
    return sorted(name for name, key in before.items() if after[name] != key)


def matching(names: Keys, patterns: list[str]) -> list[str]:
    """Return the names that fit a pattern; each pattern fits one."""
    assert all(fnmatch.filter(names, pattern) for pattern in patterns)
    return sorted({name for one in patterns for name in fnmatch.filter(names, one)})


def test_everything_has_a_key_of_its_own(before: Keys) -> None:
    assert len(set(before.values())) == len(before)
    assert len(before) > 50


def names_of(values: list[Any]) -> list[str]:
    """Name each definition."""
    return [value.__qualname__ for value in values]


@pytest.mark.parametrize(
    ("edited", "expected"), CHANGED, ids=names_of([edited for edited, _ in CHANGED])
)
def test_an_edited_line_changes_the_keys_of_what_depends_on_it(
    ask: Ask, before: Keys, edited: Callable[..., Any], expected: list[str]
) -> None:
    after = ask(edits.one_line(edited))
    assert changed(before, after) == matching(before, expected)


@pytest.mark.parametrize("edited", UNCHANGED, ids=names_of(UNCHANGED))
def test_what_computes_nothing_that_is_kept_changes_no_key(
    ask: Ask, before: Keys, edited: Callable[..., Any]
) -> None:
    assert changed(before, ask(edits.one_line(edited))) == []


def test_comments_docstrings_formatting_and_messages_change_no_key(ask: Ask, before: Keys) -> None:
    texts = edits.rewritten()
    assert len(texts) > 300
    assert changed(before, ask(texts)) == []


def test_the_python_runner_is_in_no_key_of_the_native_one(ask: Ask, before: Keys) -> None:
    after = ask(edits.one_line(Runner.call))
    python = [name for name in matching(before, [*PARITIES, *SCORES]) if "native" not in name]
    assert changed(before, after) == python


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("#include", "// a comment\n  #include", []),
        ("#include", "static int edited;\n#include", ["parity * native", "score * native"]),
    ],
)
def test_a_line_of_the_native_runner(
    ask: Ask, before: Keys, old: str, new: str, expected: list[str]
) -> None:
    text = SOURCE.read_text().replace(old, new, 1)
    after = ask({SOURCE.relative_to(edits.PACKAGE).as_posix(): text})
    assert changed(before, after) == matching(before, expected)
