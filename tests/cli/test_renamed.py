"""Keys of the previous release: on the command line, in yaml files, in a Hydra application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from torchopt2edge.bench.timing import by_name
from torchopt2edge.cli.main import main
from torchopt2edge.conf import registry


def config(capsys: pytest.CaptureFixture[str], *given: str) -> Any:
    """Return what a command prints with ``--cfg``."""
    assert main([*given, "--cfg"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("protocol=standard", "timing=standard", "protocol is now timing"),
        ("protocol.rounds=9", "timing.rounds=9", "protocol.rounds is now timing.rounds"),
        ("++protocol.rounds=9", "timing.rounds=9", "protocol.rounds is now timing.rounds"),
        ("quantize.calibrator=mse", "quantize.observer=mse", "is now quantize.observer"),
        ("stage.pruned.meter.protocol=quick", "stage.pruned.meter.timing=quick", "meter.timing"),
    ],
)
def test_an_old_override_is_the_new_one(
    old: str, new: str, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.warns(FutureWarning, match=warning):
        renamed = config(capsys, "optimize", old)
    assert renamed == config(capsys, "optimize", new)


@pytest.mark.parametrize("name", registry.options("timing"))
def test_an_old_option_is_there_in_the_groups(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For ``override /protocol: …`` in a yaml of the user's own."""
    text = f"# @package _global_\ndefaults:\n  - override /protocol: {name}\n"
    write(tmp_path / "experiment/mine.yaml", text)
    with pytest.warns(FutureWarning, match="protocol is now timing"):
        found = config(capsys, "optimize", f"--config-dir={tmp_path}", "experiment=mine")
    assert found["timing"] == config(capsys, "optimize", f"timing={name}")["timing"]
    assert "protocol" not in found


def test_a_yaml_of_the_users_own_has_old_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "protocol: {rounds: 30}\nquantize: {calibrator: ema}\n"
    write(tmp_path / "experiment/mine.yaml", f"# @package _global_\n{text}")
    given = ["optimize", f"--config-dir={tmp_path}", "experiment=mine", "timing.seed=5"]
    with pytest.warns(FutureWarning, match="is now"):
        found = config(capsys, *given)
    assert (found["timing"]["rounds"], found["timing"]["seed"]) == (30, 5)
    assert found["timing"]["name"] == "quick"
    assert found["quantize"]["observer"] == "ema"
    assert "calibrator" not in found["quantize"]


def test_a_folder_of_the_users_own_has_the_old_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = yaml.safe_dump(registry.load("timing", "smoke") | {"name": "mine"})
    write(tmp_path / "protocol/mine.yaml", text)
    given = ["bench", f"--config-dir={tmp_path}", "protocol=mine", "protocol.rounds=12"]
    with pytest.warns(FutureWarning, match="is now"):
        found = config(capsys, *given)
    assert (found["timing"]["name"], found["timing"]["rounds"]) == ("mine", 12)
    assert "protocol" not in found


def test_an_application_composes_the_old_group(tmp_path: Path) -> None:
    """As an application of the user's own does, which knows nothing of our command line."""
    search = "hydra: {searchpath: ['pkg://torchopt2edge.conf']}"
    write(tmp_path / "app.yaml", f"defaults: [{{protocol: smoke}}, _self_]\n{search}\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        node = compose("app")
    assert instantiate(node.protocol) == by_name("smoke")


def write(path: Path, text: str) -> None:
    """Write a file and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
