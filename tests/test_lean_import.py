"""What importing costs, as lists of modules in fresh processes; seconds would depend on the day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import torchopt2edge

HEAVY = (
    "torch torchvision lightning timm torchao torch_pruning tensorflow onnx onnxscript onnxruntime "
    "ai_edge_litert ai_edge_quantizer hydra omegaconf numpy scipy sklearn rich jinja2"
).split()
PACKAGE = Path(torchopt2edge.__file__).parent
BACKENDS = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in (PACKAGE / "backends").rglob("[!_]*.py")
)

# No torch on the device: an import of it fails as it would there.
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def loaded(code: str) -> set[str]:
    """Run lines in a fresh process and return the heavy modules that they loaded."""
    tail = "\nimport json, sys\nprint(json.dumps([name for name in sys.modules]))"
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)} & set(HEAVY)


def test_the_package_loads_nothing_heavy() -> None:
    assert loaded("import torchopt2edge") == set()


def test_the_command_line_loads_nothing_heavy() -> None:
    assert loaded("import torchopt2edge.cli.main") == set()


@pytest.mark.parametrize(
    "words",
    [
        "compare protocl=quick",
        "compare model=mobilenet_v2 data=digits model.width=wide",
        "compare model=vit_tiny",
        "optimize stage.student.epochs=many",
        "optimize stage.student.epoch=3",
        "optimize ship=[nothing]",
        "compare",
    ],
)
def test_a_wrong_config_is_reported_before_torch_is_imported(words: str) -> None:
    code = f"from torchopt2edge.cli.main import main\nassert main({words.split()!r}) in (1, 2)"
    assert loaded(code) <= {"hydra", "omegaconf", "rich", "numpy"}


@pytest.mark.parametrize(
    "name", ["types", "errors", "store", "runner.frames", "workflow.progress", "devices"]
)
def test_the_lower_rooms_load_nothing_heavy(name: str) -> None:
    assert loaded(f"import torchopt2edge.{name}") == set()


def test_the_functions_load_numpy_alone() -> None:
    assert loaded("from torchopt2edge.api import bench, compare, optimize, quantize") == {"numpy"}
    assert loaded("from torchopt2edge import bench, quantize") == set()


def test_the_runner_loads_numpy_alone() -> None:
    assert loaded("import torchopt2edge.runner.runner") == {"numpy"}


@pytest.mark.parametrize("name", ["torchopt2edge.runner.runner", *BACKENDS])
def test_what_goes_to_a_device_imports_without_torch(name: str) -> None:
    assert loaded(f"{WITHOUT_TORCH}\nimport {name}") <= {"numpy"}


def test_the_block_is_one() -> None:
    code = f"{WITHOUT_TORCH}\ntry:\n    import torch\nexcept ImportError:\n    import rich"
    assert "rich" in loaded(code)
