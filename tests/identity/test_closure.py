"""What counts as the code of a function or a class, of ours and of a user's own repository."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import torchopt2edge
from torchopt2edge import backends, bench, converter, devices, errors, report, store
from torchopt2edge.backends.litert.backend import LiteRT, _write_base
from torchopt2edge.backends.litert.inspect import plan_of
from torchopt2edge.backends.ort.backend import Ort
from torchopt2edge.backends.ort.profile import profile
from torchopt2edge.backends.torch_cpu import TorchCpu
from torchopt2edge.cli import commands, console, main
from torchopt2edge.compression.schedules import Linear
from torchopt2edge.converter import Conversion
from torchopt2edge.data.digits import Digits
from torchopt2edge.devices import Local
from torchopt2edge.evaluation import score
from torchopt2edge.identity import Code, code_of
from torchopt2edge.identity.cache import CodeCache
from torchopt2edge.identity.excluded import DEFINITIONS, MODULES
from torchopt2edge.identity.values import _ours
from torchopt2edge.models import artifact
from torchopt2edge.preprocessing import resample
from torchopt2edge.preprocessing.preprocess import Preprocess
from torchopt2edge.quantize import decide as deciding
from torchopt2edge.quantize import qdq_writer
from torchopt2edge.quantize.held_out import Validation
from torchopt2edge.quantize.histogram import Histogram
from torchopt2edge.quantize.range_search import entropy
from torchopt2edge.stages.distill import Distill
from torchopt2edge.stages.export import Export
from torchopt2edge.stages.prune import Prune
from torchopt2edge.stages.qat import Qat
from torchopt2edge.stages.sparsify import Sparsify
from torchopt2edge.stages.train import Train
from torchopt2edge.types import Candidate, Signature
from torchopt2edge.verdict import decide
from torchopt2edge.workflow import calibration, float_graph, progress, reference
from torchopt2edge.workflow.answering_code import runner_code
from torchopt2edge.workflow.latency_meter import Meter

PACKAGE = Path(torchopt2edge.__file__).parent
STAGES = [one.__call__ for one in (Train, Distill, Prune, Sparsify, Qat, Export)]
LOWERED = [Ort.lower, LiteRT.lower, TorchCpu.lower]
OTHERS = [
    float_graph._write_graph,
    calibration._write_decision,
    reference._write_reference,
    _write_base,
    score.score,
    Digits,
]
CANDIDATE = Candidate(
    "ort-fp32",
    "ort",
    "fp32",
    Path("model.onnx"),
    Signature((), ()),
    "",
    {"target": f"{Ort.__module__}.Ort", "options": {}},
)
ANSWERS = [one for one in runner_code(CANDIDATE, Local()) if callable(one)]
MAKERS: list[Any] = [*STAGES, *LOWERED, *OTHERS, *ANSWERS]


@functools.cache
def parts(value: Callable[..., Any]) -> frozenset[str]:
    """Name what counts as the code of a definition, as ``module.definition``."""
    return frozenset(code_of(getattr(value, "__func__", value)).parts)


def name_of(value: Callable[..., Any]) -> str:
    """Name a definition as `parts` does."""
    return f"{value.__module__}.{value.__qualname__}"


def touches(value: Callable[..., Any], modules: Iterable[ModuleType]) -> set[str]:
    """Name the modules and packages that the code of a definition is in, of those given."""
    names = {module.__name__ for module in modules}
    return {name for name in names for part in parts(value) if part.startswith(f"{name}.")}


# Our own code


@pytest.mark.parametrize("maker", MAKERS, ids=lambda one: one.__qualname__)
def test_what_shows_or_asks_is_in_no_key(maker: Callable[..., Any]) -> None:
    assert not touches(maker, (main, commands, errors, progress, report, store, console, decide))


def test_a_search_by_latency_hangs_on_what_times_but_not_on_what_shows() -> None:
    assert len(touches(Meter, (bench, backends, devices))) == 3
    assert not touches(Meter, (main, errors, progress, report, store))


def test_a_decision_hangs_on_observers_and_not_on_a_writer() -> None:
    found = parts(deciding.decide)
    assert {name_of(Histogram), name_of(entropy)} <= found
    assert not touches(deciding.decide, (qdq_writer, backends))
    assert name_of(qdq_writer.quantize_graph) in parts(Validation)


def test_a_method_counts_without_those_beside_it() -> None:
    assert name_of(Ort.open) in parts(Ort.open)
    assert not touches(Ort.open, (qdq_writer,))
    assert name_of(profile) not in parts(Ort.lower)


def test_pixels_count_where_they_are_made() -> None:
    for maker in (Ort.open, LiteRT.open, Digits, score.score):
        assert name_of(resample.resized) in parts(maker)
    for maker in (*LOWERED, float_graph._write_graph, calibration._write_decision, _write_base):
        assert name_of(resample.resized) not in parts(maker)


def test_what_is_left_out_for_our_code_counts_for_a_value() -> None:
    assert name_of(resample.resized) in parts(Preprocess)


def test_our_code_makes_pixels_by_the_function_that_is_followed() -> None:
    """A call of the object itself would be missing in the keys (`excluded.DEFINITIONS`)."""
    calls = [
        f"{path.name}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) == "preprocess"
    ]
    assert calls == []


@pytest.mark.parametrize("name", MODULES)
def test_every_excluded_module_is_there(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_excluded_definition_is_there(name: str) -> None:
    module, holder, member = name.rsplit(".", 2)
    assert member in vars(getattr(importlib.import_module(module), holder))


def test_what_is_found_only_by_running_is_known() -> None:
    """Code that is imported by a name that is computed has to be in a key in another way.

    A model's factory is in the digest of its artifact (`models.artifact.save_model`).
    """
    assert written(_imports_by_value) == {name_of(artifact._resolve)}


def test_files_that_are_read_beside_the_code_are_known() -> None:
    """Their content has to be in a key too, as `identity.Files` or by a digest of its own."""
    assert written(lambda node: "__file__" in ast.unparse(node)) == {
        name_of(plan_of),  # runs `litert_look`, which counts whole
        f"{Conversion.__module__}.CHILD",
    }


def written(holds: Callable[[ast.AST], bool]) -> set[str]:
    """Name what counts in a key and holds something, by its source."""
    counted = {part.rpartition(".")[::2] for maker in MAKERS for part in parts(maker)}
    found = set()
    for module in {module for module, _ in counted}:
        path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
        for node in ast.parse(path.read_text()).body if path.is_file() else ():
            targets = [getattr(one, "id", "") for one in getattr(node, "targets", ())]
            names = {getattr(node, "name", ""), *targets}
            found |= {f"{module}.{n}" for n in names if (module, n) in counted and holds(node)}
    return found


def _imports_by_value(node: ast.AST) -> bool:
    calls = (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))
    named = (call for call in calls if ast.unparse(call.func).endswith("import_module"))
    return any(not isinstance(call.args[0], ast.Constant) for call in named)


def test_the_packages_that_the_code_imports_are_its_tools() -> None:
    assert code_of(Ort.lower).packages == {"numpy", "onnx", "onnxruntime"}
    assert code_of(LiteRT.open).packages == {"numpy", "ai_edge_litert"}
    assert code_of(score.score).packages == {"numpy", "scipy"}
    assert "timm" not in code_of(Train.__call__).packages


def test_every_package_that_counts_is_known_by_its_name() -> None:
    for maker in MAKERS:
        tools = store.code_of(getattr(maker, "__func__", maker))["tools"]
        assert "absent" not in tools.values(), tools


# A user's code


def imported(folder: Path, files: dict[str, str], name: str) -> ModuleType:
    """Write files, and import a module as a new process would."""
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()
    for old in [one for one in sys.modules if one.partition(".")[0] == name.partition(".")[0]]:
        del sys.modules[old]
    return importlib.import_module(name)


REPOSITORY = {
    "own_repo/__init__.py": "",
    "own_repo/stages/__init__.py": "",
    "own_repo/stages/step.py": (
        "import numpy as np\n"
        "from own_repo.nets import layers\n"
        f"from {Preprocess.__module__} import Preprocess\n"
        f"from {Linear.__module__} import Linear\n\n\n"
        "class Step:\n"
        "    def __call__(self):\n"
        "        return layers.WIDTH, Linear(), Preprocess(), np.ones(1)\n"
    ),
    "own_repo/stages/beside.py": "RATE = 1\n",
    "own_repo/nets/__init__.py": "",
    "own_repo/nets/layers.py": "from . import sizes\n\nWIDTH = sizes.SMALL\n",
    "own_repo/nets/sizes.py": "SMALL = 8\n",
    "own_repo/report.py": "COLOUR = 'red'\n",
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Code]]:
    """Return what gives the code of a user's stage after edits of the files by name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def found(**changed: str) -> Code:
        files = {
            **REPOSITORY,
            **{f"own_repo/{k.replace('__', '/')}.py": v for k, v in changed.items()},
        }
        return code_of(imported(tmp_path, files, "own_repo.stages.step").Step)

    yield found
    for name in [one for one in sys.modules if one.partition(".")[0] == "own_repo"]:
        del sys.modules[name]


def test_a_users_code_is_its_modules_and_what_they_import(repository: Callable[..., Code]) -> None:
    found = repository()
    own = {one for one in found.parts if one.startswith("own_repo")}
    assert own == {
        "own_repo.stages.step",
        "own_repo.stages",
        "own_repo.stages.beside",
        "own_repo.nets",
        "own_repo.nets.layers",
        "own_repo.nets.sizes",
    }
    assert {name_of(Linear), name_of(resample.resized)} <= {*found.parts}
    assert found.packages == {"numpy"}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"nets__sizes": "SMALL = 9\n"}, False),
        ({"stages__beside": "RATE = 2\n"}, False),
        ({"nets__sizes": "# small\nSMALL = (8)\n"}, True),
        ({"report": "COLOUR = 'blue'\n"}, True),
        ({"stages__beside": "no Python\n"}, False),
        ({"stages__beside": f"DEEP = {'-' * 3000}1\n"}, False),
    ],
)
def test_an_edit_in_a_users_repository(
    repository: Callable[..., Code], changed: dict[str, str], same: bool
) -> None:
    assert (repository(**changed).digest == repository().digest) is same


def test_a_users_factory_of_an_installed_package_counts_by_its_version() -> None:
    found = code_of(np.linalg.norm)
    assert found.packages == {"numpy"}
    assert not [one for one in found.parts if one.startswith("torchopt2edge")]


@dataclass(frozen=True)
class Here:
    """A class of a module of tests, which is a user's."""

    width: int = 1

    def run(self) -> object:
        """Refer to our code."""
        return converter.convert


def test_a_method_of_a_user_counts_by_its_module() -> None:
    found = code_of(Here.run)
    assert any(one.endswith("test_closure") for one in found.parts)
    assert name_of(converter.convert) in found.parts


# One identity under every Python

PYTHONS = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[1-9]*/bin/python"))
ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from torchopt2edge.identity.cache import CodeCache
from torchopt2edge.identity.values import _ours
for name in sys.argv[2:]:
    print(_ours(CodeCache(), *name.split(":")).digest)
"""


@pytest.mark.parametrize("python", PYTHONS or [Path(sys.executable)], ids=str)
def test_the_identity_is_the_same_under_another_python(python: Path) -> None:
    """`test_syntax` holds it on every machine, by a digest that is written down."""
    names = [
        f"{calibration.__name__}:_write_decision:",
        f"{Train.__module__}:Train:__call__",
        f"{Ort.__module__}:Ort:lower",
    ]
    command = [str(python), "-B", "-c", ASK, str(PACKAGE.parent), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [_ours(CodeCache(), *one.split(":")).digest for one in names]
