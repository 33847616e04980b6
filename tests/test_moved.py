"""Every old path works, warns, and leads to the very object of the new path."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.utils import instantiate

from torchopt2edge import _moved
from torchopt2edge._moved import MOVED, new_path

ROOT = Path(_moved.__file__).parents[1]
NAMES = {
    old: new
    for old, new in MOVED.items()
    if old.rpartition(".")[2][0].isupper() or old.startswith("torchopt2edge.api.")
}
MODULES = {old: new for old, new in MOVED.items() if old not in NAMES}
# What the yaml files of the last layout named, which users copied into their own.
TARGETS = (
    "torchopt2edge.backends.litert.LiteRT",
    "torchopt2edge.backends.ort.Ort",
    "torchopt2edge.bench.protocol.Protocol",
    "torchopt2edge.distillation.terms.KD",
    "torchopt2edge.meter.Meter",
    "torchopt2edge.ramp.OneShot",
    "torchopt2edge.ramp.Polynomial",
)


def forget() -> None:
    """Let no old module be imported."""
    for name in sorted((name for name in sys.modules if new_path(name)), reverse=True):
        home, _, last = name.rpartition(".")
        del sys.modules[name]
        if new_path(home) is None:
            vars(sys.modules[home]).pop(last, None)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Start and end without an old module."""
    forget()
    yield
    forget()


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_an_old_module_is_the_new_one(old: str, new: str) -> None:
    with pytest.warns(FutureWarning, match=f"{old} is now {new}; ") as caught:
        module = importlib.import_module(old)
    assert len(caught) == 1
    assert module is importlib.import_module(new)
    assert module.__spec__ is not None
    assert (module.__name__, module.__spec__.name) == (new, new)


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_an_old_name_is_the_new_one(old: str, new: str) -> None:
    home, _, name = old.rpartition(".")
    with pytest.warns(FutureWarning, match=f"{old} is now {new}; "):
        value = getattr(importlib.import_module(home), name)
    place, _, last = new.rpartition(".")
    assert value is getattr(importlib.import_module(place), last)
    assert value.__module__ == place


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_no_file_has_an_old_path(old: str, new: str) -> None:
    place = ROOT.joinpath(*old.split("."))
    assert not place.with_suffix(".py").exists()
    assert not (place / "__init__.py").exists()


def test_a_module_below_an_old_package_is_found_once() -> None:
    with pytest.warns(FutureWarning, match=r"pruning is now .*compression\.pruning; ") as caught:
        old = importlib.import_module("torchopt2edge.pruning.spec")
    assert len(caught) == 1
    assert old is importlib.import_module("torchopt2edge.compression.pruning.spec")


@pytest.mark.parametrize("target", TARGETS)
def test_an_old_target_of_a_config_is_built(target: str) -> None:
    with pytest.warns(FutureWarning, match="the old path works until the next release"):
        built = instantiate({"_target_": target, "_partial_": True})
    assert f"{built.func.__module__}.{built.func.__name__}" == new_path(target)


def test_what_was_pickled_under_an_old_path_loads() -> None:
    from torchopt2edge.compression.schedules import OneShot

    new = pickle.dumps(OneShot(), protocol=0)
    old = new.replace(b"torchopt2edge.compression.schedules", b"torchopt2edge.ramp")
    assert old != new
    with pytest.warns(FutureWarning, match="ramp is now"):
        assert pickle.loads(old) == OneShot()


@pytest.mark.parametrize(
    "code", ["import torchopt2edge.pruning.nothing", "import torchopt2edge.nothing"]
)
def test_what_never_was_is_not_found(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr.splitlines()[-1]


def test_the_warning_points_at_the_users_line(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("\nfrom torchopt2edge.ramp import OneShot\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert f"{script}:2: FutureWarning: torchopt2edge.ramp is now" in done.stderr


def test_importing_the_package_imports_nothing_that_moved() -> None:
    code = (
        "import sys, torchopt2edge; print(*(x for x in sys.modules if x[:14] == 'torchopt2edge.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == {"torchopt2edge._moved", "torchopt2edge._version"}


@pytest.mark.parametrize(("old", "new"), [("lower", "quantize"), ("measure", "bench")])
def test_an_old_verb_is_the_new_one(old: str, new: str) -> None:
    import torchopt2edge as t2e

    with pytest.warns(FutureWarning, match=f"torchopt2edge.{old} is now torchopt2edge.{new}; "):
        assert getattr(t2e, old) is getattr(t2e, new)


def test_an_old_keyword_is_the_new_one() -> None:
    import torchopt2edge as t2e
    from torchopt2edge.api import Settings
    from torchopt2edge.workflow.latency_meter import Meter

    with pytest.warns(FutureWarning, match="protocol is now timing; "):
        assert Settings.of({"protocol": "smoke"}).timing.name == "smoke"
    with pytest.warns(FutureWarning, match="protocol is now timing; "):
        assert Meter(protocol="quick") == Meter(timing="quick")
    with pytest.warns(FutureWarning, match="calibrator is now observer; ") as caught:
        options = t2e.Quantize(calibrator="mse")
    assert options == t2e.Quantize(observer="mse")
    assert [one.filename for one in caught] == [__file__]
    with pytest.raises(TypeError, match="protocol"):
        t2e.Quantize(protocol="smoke")
